//! The figures as a picture: lag over time, and the drains' ratios.
//!
//! Written by hand: two panels are less code than a plotting crate would bring, and the suitable one
//! (plotters) has had no release for two years.

use std::fmt::Write;

use crate::figures::Figures;
use crate::steady::Point;

const COLOURS: [&str; 3] = ["#1b7837", "#2166ac", "#b2182b"];
/// The plotted part of the left panel.
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 320.0;
/// The right panel.
const BARS: f64 = 770.0;
const BAR: f64 = 50.0;
const TARGET: f64 = 0.9;

/// An SVG of the figures.
pub fn svg(figures: &Figures) -> String {
    let mut out = String::from(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 960 420' font-family='sans-serif' font-size='12'>\n\
         <rect width='960' height='420' fill='white'/>\n",
    );
    // Writing to memory does not fail.
    let _ = lag(&mut out, figures).and_then(|()| ratios(&mut out, figures));
    out.push_str("</svg>\n");
    out
}

/// Lag over time: the median as a line, the longest as dots, on a scale of powers of ten.
fn lag(out: &mut String, figures: &Figures) -> std::fmt::Result {
    let points = || figures.steady.iter().flat_map(|steady| &steady.timeline);
    let seconds = points().map(|point| point.second).fold(1.0, f64::max);
    let most = points().map(|point| point.max_ms).fold(10.0, f64::max).log10().ceil();
    let least = points().map(|point| point.p50_ms).fold(10.0, f64::min).max(0.1).log10().floor();
    let x = |second: f64| LEFT + WIDTH * second / seconds;
    let y = |ms: f64| TOP + HEIGHT * (1.0 - (ms.max(0.1).log10() - least) / (most - least));
    writeln!(
        out,
        "<text x='{LEFT}' y='20' font-size='14'>Lag over time, ms ({}): median, and longest as dots</text>",
        figures.engine
    )?;
    let mut decade = least;
    while decade <= most {
        let (ms, line) = (10_f64.powf(decade), y(10_f64.powf(decade)));
        let right = LEFT + WIDTH;
        writeln!(out, "<path d='M{LEFT} {line:.1}H{right}' stroke='#ddd'/>")?;
        writeln!(out, "<text x='{}' y='{:.1}' text-anchor='end'>{ms}</text>", LEFT - 6.0, line + 4.0)?;
        decade += 1.0;
    }
    let bottom = TOP + HEIGHT + 18.0;
    writeln!(out, "<text x='{LEFT}' y='{bottom}'>0 s</text>")?;
    writeln!(out, "<text x='{}' y='{bottom}' text-anchor='end'>{seconds:.0} s</text>", LEFT + WIDTH)?;
    for (i, (steady, colour)) in figures.steady.iter().zip(COLOURS).enumerate() {
        let place = |point: &Point| format!("{:.1},{:.1}", x(point.second), y(point.p50_ms));
        let line: Vec<String> = steady.timeline.iter().map(place).collect();
        writeln!(
            out,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='1.5'/>",
            line.join(" ")
        )?;
        for point in &steady.timeline {
            let (x, y) = (x(point.second), y(point.max_ms));
            writeln!(out, "<circle cx='{x:.1}' cy='{y:.1}' r='1.5' fill='{colour}'/>")?;
        }
        let legend = LEFT + 120.0 + 190.0 * f64::from(u32::try_from(i).unwrap_or_default());
        let (load, rate) = (steady.load * 100.0, steady.application_writes_per_second);
        writeln!(
            out,
            "<text x='{legend}' y='{}' fill='{colour}'>at {load:.0} % ({rate:.0} writes/s)</text>",
            bottom + 22.0
        )?;
    }
    Ok(())
}

/// The drains' ratios to the ceiling, and their target.
fn ratios(out: &mut String, figures: &Figures) -> std::fmt::Result {
    let most = figures.drain.iter().map(|drain| drain.ratio).fold(1.0, f64::max);
    let height = |ratio: f64| HEIGHT * ratio / most;
    writeln!(out, "<text x='{BARS}' y='20' font-size='14'>Drain to ceiling</text>")?;
    for (i, drain) in figures.drain.iter().enumerate() {
        let x = BARS + 80.0 * f64::from(u32::try_from(i).unwrap_or_default());
        let (height, ratio) = (height(drain.ratio), drain.ratio);
        let top = TOP + HEIGHT - height;
        writeln!(
            out,
            "<rect x='{x}' y='{top:.1}' width='{BAR}' height='{height:.1}' fill='{}'/>",
            COLOURS[1]
        )?;
        writeln!(out, "<text x='{x}' y='{:.1}'>{ratio:.2}</text>", top - 4.0)?;
        writeln!(out, "<text x='{x}' y='{}'>{} peer(s)</text>", TOP + HEIGHT + 18.0, drain.peers)?;
    }
    let target = TOP + HEIGHT - height(TARGET);
    writeln!(
        out,
        "<path d='M{} {target:.1}h160' stroke='{}' stroke-dasharray='4'/>",
        BARS - 10.0,
        COLOURS[2]
    )?;
    writeln!(out, "<text x='{}' y='{:.1}' fill='{}'>0.9</text>", BARS + 153.0, target + 4.0, COLOURS[2])
}
