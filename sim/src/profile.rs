//! Draws a scenario from a seed: settings, faults and writes, by profile.

use fastrand::Rng;

use crate::feed::FeedSettings;
use crate::settings::{AppWrite, Fault, FaultKind, Scenario, Settings, WriteKind};

/// A family of scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// No faults; two regions write to the same keys all the same.
    Calm,
    /// No faults, and agents keep up: counters, locks and hot items, which no application may see go back.
    Counters,
    /// Links are cut, slow and lossy; services answer with errors and throttle; agents crash.
    Faulty,
    /// Agents are killed and stopped again and again.
    Crashes,
    /// Shards roll and split all the time, while agents crash.
    Shards,
    /// Clocks differ by minutes and step forwards and back, also by whole minutes.
    Skew,
    /// The clock of a region is hours ahead for a few seconds, once.
    Ahead,
    /// One peer is unreachable for hours, while much is written.
    LongOutage,
    /// Several agents share each region's many shards, and are killed in turn.
    Crowd,
    /// A thousand shards that roll and split, and ten agents that are killed in turn.
    Scale,
    /// Several agents in each region, and one peer unreachable for 20 hours of 24.
    Away,
    /// An agent is down for longer than the streams keep records.
    Trimmed,
    /// Something in between answers in the services' place, again and again.
    Gateway,
    /// A replica refuses every write, or is removed, recreated with other keys, and then restored.
    Refused,
    /// Records come without a creation time.
    Unreadable,
    /// Streams are turned off and on at once, while agents crash and links are cut: nothing is lost.
    Recycled,
    /// A feed whose function breaks, is throttled and out of reach, and never takes some events.
    Feeds,
}

const MINUTE: u64 = 60_000;
/// How many keys are written at once when a replica begins to refuse.
const BURST: usize = 15;

impl Profile {
    pub const ALL: [Self; 17] = [
        Self::Calm,
        Self::Counters,
        Self::Faulty,
        Self::Crashes,
        Self::Shards,
        Self::Skew,
        Self::Ahead,
        Self::LongOutage,
        Self::Crowd,
        Self::Scale,
        Self::Away,
        Self::Trimmed,
        Self::Gateway,
        Self::Refused,
        Self::Unreadable,
        Self::Recycled,
        Self::Feeds,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Counters => "counters",
            Self::Faulty => "faulty",
            Self::Crashes => "crashes",
            Self::Shards => "shards",
            Self::Skew => "skew",
            Self::Ahead => "ahead",
            Self::LongOutage => "long-outage",
            Self::Crowd => "crowd",
            Self::Scale => "scale",
            Self::Away => "away",
            Self::Trimmed => "trimmed",
            Self::Gateway => "gateway",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Recycled => "recycled",
            Self::Feeds => "feeds",
        }
    }

    /// The scenario of a seed, with this many minutes of writes and faults.
    pub fn draw(self, seed: u64, minutes: u64) -> Scenario {
        let mut rng = Rng::with_seed(seed ^ 0x7472_6164_6577_696e);
        let settings = self.settings(minutes * MINUTE, &mut rng);
        let faults = self.faults(&settings, &mut rng);
        let mut writes = self.writes(&settings, &mut rng);
        let feed = (self == Self::Feeds).then(|| feed(&mut rng));
        let settings = Settings { feed, ..settings };
        if self == Self::Refused {
            add_bursts(&faults, &settings, &mut writes, &mut rng);
        }
        Scenario { profile: self.name().to_owned(), seed, settings, faults, writes }
    }

    fn settings(self, safety: u64, rng: &mut Rng) -> Settings {
        let regions = if rng.u8(..3) == 0 || self == Self::Scale { 2 } else { 3 };
        let is_skewed = self == Self::Skew;
        let spread = if is_skewed { 5 * 60_000 } else { 1_500 };
        let offsets = (0..regions).map(|_| rng.i64(-spread..=spread)).collect();
        let settle = 1_000 * rng.u64(30..=60);
        // Agents with their default settings, on streams that are read to their end each time.
        let counts = self == Self::Counters;
        let is_quick = counts || self == Self::Refused;
        Settings {
            regions,
            agents: match self {
                Self::Crowd => rng.usize(2..=4),
                Self::Recycled | Self::Feeds => rng.usize(1..=2),
                Self::Scale => 5,
                Self::Away => 3,
                _ => 1,
            },
            shards: match self {
                Self::Crowd => rng.usize(2..=12),
                Self::Scale => 1_000,
                Self::Away => 4,
                Self::Recycled => rng.usize(1..=4),
                Self::Feeds => rng.usize(1..=3),
                _ => 1,
            },
            keys: match self {
                Self::Scale => 2_000,
                Self::Counters => rng.usize(4..=8),
                Self::Refused => rng.usize(2 * BURST..=40),
                _ => rng.usize(3..=40),
            },
            sole_keys: if counts { 3 } else { 2 },
            strict: counts,
            safety,
            granularity: if is_skewed && rng.bool() { MINUTE } else { 1_000 },
            offsets,
            retention: if self == Self::Trimmed { 3 * MINUTE } else { 24 * 60 * MINUTE },
            listing_delay: if matches!(self, Self::Shards | Self::Crowd) { rng.u64(..8_000) } else { 0 },
            shards_a_page: if self == Self::Shards { rng.usize(1..=5) } else { 100 },
            page: if is_quick || rng.u8(..4) == 0 { 1_000 } else { rng.usize(2..=30) },
            stream_lag: rng.u64(50..=if is_quick { 150 } else { 800 }),
            near: 8,
            far: rng.u64(60..=250),
            late: settle * 2 / 3,
            idle_poll_interval: match self {
                Self::Scale => MINUTE,
                Self::Away => 10_000,
                _ => 500,
            },
            poll_interval: match self {
                Self::LongOutage => 2_000,
                Self::Scale | Self::Away => 5_000,
                Self::Counters | Self::Refused => 250,
                _ => 250 * rng.u64(1..=6),
            },
            checkpoint_interval: 1_000 * rng.u64(1..=5),
            settle,
            concurrency: if is_quick { 64 } else { rng.usize(1..=8) },
            memory_keys: if rng.u8(..4) == 0 { rng.usize(1..=10) } else { 1_000_000 },
            clock_slack: if matches!(self, Self::Faulty | Self::Skew | Self::Ahead) { MINUTE } else { 0 },
            converges: !matches!(self, Self::Trimmed | Self::Unreadable),
            patience: 4 * 60 * MINUTE,
            forget_within: if rng.u8(..8) == 0 && self != Self::Ahead { 20 * MINUTE } else { 0 },
            feed: None,
            defect: None,
        }
    }

    fn faults(self, settings: &Settings, rng: &mut Rng) -> Vec<Fault> {
        let minutes = settings.safety / MINUTE;
        let mut faults = Vec::new();
        // How many of each kind in ten minutes.
        let (links, services, crashes, rolls, steps) = match self {
            Self::Calm | Self::Counters => (0, 0, 0, 0, 0),
            Self::Ahead => (4, 2, 8, 4, 0),
            Self::Faulty => (30, 16, 8, 4, 2),
            Self::Crashes => (6, 4, 30, 2, 0),
            Self::Shards => (6, 4, 10, 30, 0),
            Self::Skew => (8, 4, 8, 4, 16),
            Self::LongOutage => (4, 2, 4, 2, 0),
            Self::Crowd => (6, 4, 60, 6, 0),
            Self::Scale => (4, 2, 20, 0, 0),
            Self::Away => (1, 1, 1, 0, 0),
            Self::Trimmed => (4, 2, 0, 6, 0),
            Self::Gateway => (2, 0, 8, 6, 0),
            Self::Refused => (6, 2, 4, 4, 0),
            Self::Unreadable => (6, 4, 10, 4, 0),
            Self::Recycled => (20, 4, 20, 6, 0),
            Self::Feeds => (20, 6, 16, 8, 0),
        };
        let mut some = |a_ten_minutes: u64, draw: fn(&Settings, &mut Rng) -> FaultKind, rng: &mut Rng| {
            let most = (a_ten_minutes * minutes).div_ceil(10);
            for _ in 0..if most == 0 { 0 } else { rng.u64(most / 2..=most) } {
                let kind = draw(settings, rng);
                let lasts = if kind.is_moment() { 0 } else { 1_000 * rng.u64(1..=45) };
                faults.push(Fault { at: rng.u64(..settings.safety), lasts, kind });
            }
        };
        some(links, link_fault, rng);
        // Nothing shows that a function's answer is its own.
        some(services, if self == Self::Feeds { honest_fault } else { service_fault }, rng);
        some(crashes, agent_fault, rng);
        some(rolls, shard_fault, rng);
        some(steps, clock_fault, rng);
        self.add_its_own(settings, &mut faults, rng);
        faults.sort_by_key(|fault| fault.at);
        faults
    }

    /// Adds what is special about the profile.
    fn add_its_own(self, settings: &Settings, faults: &mut Vec<Fault>, rng: &mut Rng) {
        match self {
            Self::Ahead => {
                let region = rng.usize(..settings.regions);
                let at = rng.u64(..settings.safety / 2);
                let millis = 60_000 * rng.i64(2..=24 * 60);
                faults.push(Fault { at, lasts: 0, kind: FaultKind::ClockStep { region, millis } });
                let at = at + rng.u64(1_000..20_000);
                faults.push(Fault { at, lasts: 0, kind: FaultKind::ClockStep { region, millis: -millis } });
            }
            Self::LongOutage => {
                let to = rng.usize(..settings.regions);
                for from in (0..settings.regions).filter(|from| *from != to) {
                    let at = rng.u64(..settings.safety / 8);
                    let lasts = settings.safety * rng.u64(3..=6) / 8;
                    faults.push(Fault { at, lasts, kind: FaultKind::Cut { from, to } });
                }
            }
            Self::Scale => {
                for region in 0..settings.regions {
                    let (quarter, half) = (settings.safety / 4, settings.safety / 2);
                    faults.push(Fault { at: quarter, lasts: 0, kind: FaultKind::Roll { region } });
                    faults.push(Fault { at: half, lasts: 0, kind: FaultKind::Split { region } });
                }
            }
            Self::Away => {
                let to = rng.usize(..settings.regions);
                for from in (0..settings.regions).filter(|from| *from != to) {
                    let (at, lasts) = (settings.safety / 24, settings.safety * 20 / 24);
                    faults.push(Fault { at, lasts, kind: FaultKind::Cut { from, to } });
                }
                for region in 0..settings.regions {
                    for sixth in 1..6 {
                        let at = settings.safety * sixth / 6;
                        faults.push(Fault { at, lasts: 0, kind: FaultKind::Roll { region } });
                    }
                }
            }
            // Once for each region: a stream that was on too briefly for any agent to see it is read by none.
            Self::Recycled => {
                for region in 0..settings.regions {
                    let at = rng.u64(..settings.safety);
                    faults.push(Fault { at, lasts: 0, kind: FaultKind::Recycle { region } });
                }
            }
            Self::Trimmed => {
                let agent = rng.usize(..settings.regions);
                let at = rng.u64(MINUTE..2 * MINUTE);
                let lasts = settings.retention + rng.u64(MINUTE..3 * MINUTE);
                faults.push(Fault { at, lasts, kind: FaultKind::Crash { agent } });
            }
            Self::Refused => {
                let region = rng.usize(..settings.regions);
                let (at, lasts) = (1_000 * rng.u64(3..15), 1_000 * rng.u64(5..25));
                if rng.bool() {
                    faults.push(Fault { at, lasts, kind: FaultKind::Refusing { region } });
                } else {
                    // Agents that can't reach the table see neither that it is missing nor that it is another.
                    faults.retain(|fault| fault.kind.is_moment() || fault.kind.is_of_agent());
                    let gone = 1_000 * rng.u64(2..5);
                    faults.push(Fault { at, lasts: gone, kind: FaultKind::Missing { region } });
                    faults.push(Fault { at: at + gone, lasts, kind: FaultKind::OtherKeys { region } });
                }
            }
            Self::Gateway => {
                for _ in 0..rng.u64(3..=6) {
                    let (region, percent) = (rng.usize(..settings.regions), rng.u8(20..70));
                    let (at, lasts) = (rng.u64(..settings.safety / 2), 1_000 * rng.u64(10..40));
                    faults.push(Fault { at, lasts, kind: FaultKind::Gateway { region, percent } });
                }
            }
            Self::Unreadable => {
                for _ in 0..rng.u64(1..=3) {
                    let (region, percent) = (rng.usize(..settings.regions), rng.u8(5..60));
                    let (at, lasts) = (rng.u64(..settings.safety / 2), 1_000 * rng.u64(5..30));
                    faults.push(Fault { at, lasts, kind: FaultKind::Undated { region, percent } });
                }
            }
            _ => {}
        }
    }

    fn writes(self, settings: &Settings, rng: &mut Rng) -> Vec<AppWrite> {
        let mut writes = Vec::new();
        let is_long = matches!(self, Self::LongOutage | Self::Scale | Self::Away);
        // Some scenarios are busy, others have long pauses.
        let pause: u64 = if self == Self::Away {
            120_000
        } else if self == Self::Counters {
            // 2, 10 and 50 writes a second.
            [500, 100, 20][rng.usize(..3)]
        } else if is_long {
            8_000
        } else {
            [300, 1_000, 3_000][rng.usize(..3)]
        };
        let hot = rng.usize(1..=settings.keys.min(5));
        let mut at = rng.u64(..2_000);
        while at < settings.safety {
            let burst = if rng.u8(..8) == 0 { rng.usize(2..=25) } else { 1 };
            let shared = (rng.usize(..settings.keys), rng.u8(..4) == 0);
            for _ in 0..burst {
                let key = match shared {
                    (key, true) => key,
                    _ if rng.bool() => rng.usize(..hot),
                    _ => rng.usize(..settings.keys),
                };
                let kind = match rng.u8(..10) {
                    _ if key == 0 && settings.sole_keys > 0 => WriteKind::Lock,
                    0..6 if key < settings.sole_keys || self == Self::Counters => WriteKind::Add,
                    _ => write_kind(is_long, settings, rng),
                };
                let number = writes.len() as u64 + 1;
                let anywhere = rng.usize(..settings.regions);
                let region = if key < settings.sole_keys { key % settings.regions } else { anywhere };
                writes.push(AppWrite { number, at, region, key, kind });
                at += if rng.bool() { 0 } else { rng.u64(..120) };
            }
            at += rng.u64(..2 * pause);
        }
        // Deletes of one item in several regions, as TTL expiry causes them.
        for _ in 0..rng.u64(0..=2) {
            let (at, key) = (rng.u64(..settings.safety), rng.usize(settings.sole_keys..settings.keys));
            for region in 0..settings.regions {
                let number = writes.len() as u64 + 1;
                let at = at + rng.u64(..1_000);
                writes.push(AppWrite { number, at, region, key, kind: WriteKind::Delete });
            }
        }
        writes.sort_by_key(|write| write.at);
        writes
    }
}

/// A replica that refuses every write gets many keys at once, or few; one that is replaced is tested with
/// many before.
fn add_bursts(faults: &[Fault], settings: &Settings, writes: &mut Vec<AppWrite>, rng: &mut Rng) {
    for fault in faults {
        let (FaultKind::Refusing { region: away } | FaultKind::Missing { region: away }) = fault.kind else {
            continue;
        };
        if matches!(fault.kind, FaultKind::Refusing { .. }) && rng.bool() {
            continue;
        }
        for region in (0..settings.regions).filter(|region| *region != away) {
            for key in settings.keys - BURST..settings.keys {
                let number = writes.len() as u64 + 1;
                let at = fault.at + rng.u64(..50);
                writes.push(AppWrite { number, at, region, key, kind: WriteKind::Put { padding: 0 } });
            }
        }
    }
    writes.sort_by_key(|write| write.at);
}

fn write_kind(is_long: bool, settings: &Settings, rng: &mut Rng) -> WriteKind {
    let pick = rng.u32(..);
    match rng.u8(..100) {
        0..40 => {
            let padding = match rng.u8(..100) {
                0..30 if is_long => rng.u32(20_000..120_000),
                0..2 => rng.u32(1_000..300_000),
                _ => 0,
            };
            WriteKind::Put { padding }
        }
        40..70 => WriteKind::Update,
        70..76 => WriteKind::PutBack { pick, from: rng.usize(..settings.regions) },
        76..80 => WriteKind::PutBackBare { pick, from: rng.usize(..settings.regions) },
        80..99 => WriteKind::Delete,
        _ => WriteKind::Garbage,
    }
}

fn link_fault(settings: &Settings, rng: &mut Rng) -> FaultKind {
    // An agent's link to its own region fails less often.
    let from = rng.usize(..settings.regions);
    let away = (from + rng.usize(1..settings.regions)) % settings.regions;
    let to = if rng.u8(..4) == 0 { from } else { away };
    match rng.u8(..8) {
        0..2 => FaultKind::Cut { from, to },
        2 => FaultKind::Mute { from, to },
        3 => FaultKind::Slow { from, to, millis: rng.u64(200..12_000) },
        _ => FaultKind::Lossy { from, to, percent: rng.u8(5..60) },
    }
}

/// The feed of the profile.
fn feed(rng: &mut Rng) -> FeedSettings {
    let state = rng.u8(..3) == 0;
    let poison = if !state && rng.bool() { rng.u8(20..60) } else { 0 };
    FeedSettings {
        state,
        batch_size: [1, 10, 100][rng.usize(..3)],
        parallelization: rng.u32(1..=4),
        partial: rng.bool(),
        blocks_shard: rng.bool(),
        // Where events are soon parked, none may be parked for bad luck.
        breaks: if poison == 0 && rng.bool() { rng.u8(5..25) } else { 0 },
        poison,
    }
}

fn honest_fault(settings: &Settings, rng: &mut Rng) -> FaultKind {
    loop {
        match service_fault(settings, rng) {
            FaultKind::Gateway { .. } => {}
            fault => return fault,
        }
    }
}

fn service_fault(settings: &Settings, rng: &mut Rng) -> FaultKind {
    let region = rng.usize(..settings.regions);
    match rng.u8(..4) {
        0 => FaultKind::Errors { region, percent: rng.u8(5..80) },
        1 => FaultKind::Gateway { region, percent: rng.u8(5..50) },
        2 => FaultKind::Throttled { region, percent: rng.u8(5..95) },
        _ => FaultKind::StreamLag { region, millis: rng.u64(500..10_000) },
    }
}

fn agent_fault(settings: &Settings, rng: &mut Rng) -> FaultKind {
    let agent = rng.usize(..settings.regions * settings.agents);
    if settings.agents > 1 && rng.bool() {
        // With other agents there, what matters is what it does when it is back.
        return FaultKind::Isolate { agent };
    }
    if rng.u8(..4) == 0 { FaultKind::Stop { agent } } else { FaultKind::Crash { agent } }
}

fn shard_fault(settings: &Settings, rng: &mut Rng) -> FaultKind {
    let region = rng.usize(..settings.regions);
    if rng.bool() { FaultKind::Split { region } } else { FaultKind::Roll { region } }
}

fn clock_fault(settings: &Settings, rng: &mut Rng) -> FaultKind {
    let region = rng.usize(..settings.regions);
    // Back by seconds, as a time daemon does; forwards by more.
    let millis = if rng.bool() { -rng.i64(200..3_000) } else { rng.i64(200..60_000) };
    FaultKind::ClockStep { region, millis }
}
