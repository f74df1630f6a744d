//! `tradewind status --watch`, on a terminal.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, Wrap};

use super::{
    LINK_HEADS, LINK_WIDTHS, LOOK, REGION_HEADS, REGION_WIDTHS, link_cells, region_cells, troubles, verified,
};
use crate::cli::{Exit, Failure, moment};
use crate::config::Config;
use crate::operate::{Status, status};
use crate::protocol::Origin;
use crate::region::Region;

/// From the first lag on, in seconds, one is worth a look; from the second on, something is wrong.
const SLOW: f64 = 5.0;
const LATE: f64 = 60.0;
const RED: Style = Style::new().fg(Color::Red);
/// How often key presses are polled.
const KEYS: Duration = Duration::from_millis(100);

/// Shows all regions until a key ends it.
pub(super) async fn watch(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    max_lag: Option<Duration>,
) -> Result<Exit, Failure> {
    let mut terminal = ratatui::init();
    let ended = show(&mut terminal, config, regions, max_lag).await;
    ratatui::restore();
    ended.map(|()| Exit::Done)
}

async fn show(
    terminal: &mut DefaultTerminal,
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    max_lag: Option<Duration>,
) -> Result<(), Failure> {
    loop {
        let status = status(config, regions).await;
        terminal.draw(|frame| draw(frame, &status, max_lag)).map_err(Failure::internal)?;
        let until = tokio::time::Instant::now() + LOOK;
        while tokio::time::Instant::now() < until {
            // Polling blocks.
            let pressed = tokio::task::spawn_blocking(|| -> std::io::Result<Option<Event>> {
                if event::poll(KEYS)? { event::read().map(Some) } else { Ok(None) }
            });
            match pressed.await.map_err(Failure::internal)?.map_err(Failure::internal)? {
                Some(event) if ends(&event) => return Ok(()),
                Some(Event::Resize(..)) => {
                    terminal.draw(|frame| draw(frame, &status, max_lag)).map_err(Failure::internal)?;
                }
                _ => {}
            }
        }
    }
}

/// q, Escape and Ctrl-C quit.
fn ends(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    key.kind == KeyEventKind::Press && (matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || interrupt)
}

fn draw(frame: &mut Frame, status: &Status, max_lag: Option<Duration>) {
    let overview = &status.overview;
    let troubles = troubles(status);
    let height = |rows: usize| Constraint::Length(u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(3));
    let parts = [height(overview.links.len()), height(overview.regions.len()), Constraint::Min(3)];
    let [links, regions, notes] = Layout::vertical(parts).areas(frame.area());
    let late = max_lag.map_or(LATE, |most| most.as_secs_f64());
    let rows = overview.links.iter().map(|link| {
        let style = match link.longest_lag() {
            None => Style::new().fg(Color::Magenta),
            Some(lag) if lag > late => RED.add_modifier(Modifier::BOLD),
            Some(lag) if lag > SLOW.min(late) => Style::new().fg(Color::Yellow),
            Some(_) => Style::new().fg(Color::Green),
        };
        Row::new(link_cells(link).map(Cell::from)).style(style)
    });
    let title = format!(" Tradewind, {} ", moment(overview.millis));
    frame.render_widget(table(&LINK_HEADS, &LINK_WIDTHS, rows.collect(), title), links);
    let rows = overview.regions.iter().map(|region| {
        let style = if region.heard { Style::new() } else { RED };
        Row::new(region_cells(region).map(Cell::from)).style(style)
    });
    frame
        .render_widget(table(&REGION_HEADS, &REGION_WIDTHS, rows.collect(), " Regions ".to_owned()), regions);
    let mut told: Vec<Line> = if troubles.is_empty() {
        vec![Line::from("All agents report. q quits.")]
    } else {
        troubles.into_iter().map(|line| Line::styled(line, RED)).collect()
    };
    told.extend(overview.verified.iter().map(|table| {
        let style = if table.items_differing > 0 { RED } else { Style::new() };
        Line::styled(verified(table), style)
    }));
    let block = Block::bordered().title(" Notes ");
    frame.render_widget(Paragraph::new(told).wrap(Wrap { trim: true }).block(block), notes);
}

fn table<'a>(heads: &[&'a str], widths: &[usize], rows: Vec<Row<'a>>, title: String) -> Table<'a> {
    let widths = widths.iter().map(|width| Constraint::Min(u16::try_from(*width).unwrap_or(u16::MAX)));
    let header = Row::new(heads.iter().map(|head| Cell::from(*head)));
    let header = header.style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows, widths).header(header).block(Block::bordered().title(title))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::observe::Overview;

    #[test]
    fn a_region_that_nobody_has_heard_of_is_shown_as_such() {
        let names: Vec<Origin> = ["dublin", "tokyo"].map(|name| name.parse().expect("a name")).into();
        let status = Status { overview: Overview::of(&names, Vec::new()), silent: Vec::new() };
        let mut terminal = Terminal::new(TestBackend::new(110, 20)).expect("a terminal");
        terminal.draw(|frame| draw(frame, &status, None)).expect("a picture");
        let shown: String =
            terminal.backend().buffer().content().iter().map(ratatui::buffer::Cell::symbol).collect();
        for expected in ["dublin → tokyo", "watermark age", "tokyo: no agent has reported within a day"] {
            assert!(shown.contains(expected), "{expected:?} is missing: {shown}");
        }
    }
}
