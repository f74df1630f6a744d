//! `tradewind pause` and `tradewind resume`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::chosen::known;
use super::{ConfigFile, Exit, Failure, moment, report};
use crate::clock::wall_millis;
use crate::config::Config;
use crate::destination::Destination;
use crate::operate::{Flow, flows, pause};
use crate::protocol::Origin;
use crate::region::Region;

/// Pause the flow of writes to a peer, without losing any.
///
/// For maintenance of a region, and for game days. The agents keep running: what they read waits, eventually
/// in the stream, until the pause ends or `tradewind resume` ends it. Returns when the running agents have
/// confirmed the pause; one that starts later obeys it from its first write on. Writes in progress are
/// finished. Other flows continue, and so do reports and heartbeats.
#[derive(Debug, Args)]
pub(super) struct Pause {
    #[command(flatten)]
    which: Which,
    /// How long. At most half of the streams' retention (`stream_retention`): 12 hours. Pausing a paused flow
    /// starts the pause over.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    time: Duration,
}

/// Resume a paused flow of writes to a peer.
#[derive(Debug, Args)]
pub(super) struct Resume {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    config: ConfigFile,
    /// The region whose writes are affected; may be repeated. Default: all.
    #[arg(long, value_name = "REGION", required_unless_present = "to")]
    from: Vec<String>,
    /// The peer that they go to; may be repeated. Default: all.
    #[arg(long, value_name = "PEER", required_unless_present = "from")]
    to: Vec<String>,
}

#[derive(Serialize)]
struct Flows {
    flows: Vec<Flow>,
}

impl Pause {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        self.which.run(Some(self.time), json).await
    }
}

impl Resume {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        self.which.run(None, json).await
    }
}

impl Which {
    /// Pauses for some time; without one, resumes.
    async fn run(&self, time: Option<Duration>, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let all =
            |names: &[String]| names.iter().map(|name| known(&config, name)).collect::<Result<Vec<_>, _>>();
        let flows = flows(&config, &all(&self.from)?, &all(&self.to)?);
        if flows.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                "no table is replicated that way: --from and --to must name two regions",
            ));
        }
        set(&config, &flows, time, json).await
    }
}

/// Pauses flows for some time; without one, resumes them.
pub(super) async fn set(
    config: &Config,
    flows: &[(Origin, Destination)],
    time: Option<Duration>,
    json: bool,
) -> Result<Exit, Failure> {
    let most = config.tuning.stream_retention / 2;
    if let Some(time) = time.filter(|time| *time > most || time.is_zero()) {
        let (time, most) = (humantime::format_duration(time), humantime::format_duration(most));
        let message = format!(
            "can't pause for {time}: expected more than zero, and at most {most}, half of the streams' retention; \
                 beyond all of it, writes would be lost"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    let until = time.map(|time| wall_millis() + u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let regions = Region::connect_all(config).await?;
    let flows = pause(config, &regions, flows, until).await?;
    let unanswered = flows.iter().any(|flow| flow.unanswered > 0);
    report(json, &Flows { flows }, text)?;
    Ok(if unanswered { Exit::Differs } else { Exit::Done })
}

fn text(told: &Flows) -> String {
    told.flows.iter().flat_map(lines).collect::<Vec<_>>().join("\n")
}

fn lines(flow: &Flow) -> Vec<String> {
    let Flow { origin, to, agents, unanswered, .. } = flow;
    let mut lines = vec![match (flow.paused_until, flow.was_paused_until) {
        (Some(until), _) if *agents == 0 => format!(
            "{origin} → {to}: paused until {}; no agent has confirmed it yet: one that starts will obey it",
            moment(until)
        ),
        (Some(until), _) => {
            format!(
                "{origin} → {to}: paused until {}; confirmed by {agents} agents of {origin}",
                moment(until)
            )
        }
        (None, Some(_)) => format!("{origin} → {to}: resumed"),
        (None, None) => format!("{origin} → {to}: was not paused"),
    }];
    if let Some(lost_from) = flow.lost_from {
        lines.push(format!(
            "  warning: if it were paused, or could not be reached, until {}, writes would be lost",
            moment(lost_from)
        ));
    }
    if *unanswered > 0 {
        lines.push(format!(
            "  {unanswered} running agents of {origin} have not confirmed it: are they of this version?"
        ));
    }
    lines
}
