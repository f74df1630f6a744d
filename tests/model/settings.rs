//! How large a search is, what may happen in it, and which rule is broken on purpose.

/// What the regions hold at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    Absent,
    /// Every key was written in region a long ago: bare there, stamped elsewhere.
    Shared,
}

/// Which old images an application may put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PutBacks {
    None,
    /// Those with a stamp that its region has held.
    Stamped,
    /// All that its region has held.
    Own,
    /// All that any region has held.
    Any,
}

/// A rule that is broken on purpose: the search must notice each.
///
/// The protocol has no switches. A defect bends what the model shows it, what the model's table
/// does with its writes, or what the model's agent makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    None,
    NoFingerprint,
    StampNotAbove,
    NoHeal,
    NoMark,
    PlainMark,
    NoBump,
    NoChainMemory,
    MemoryLost,
    NoNewStampFloor,
    NoNonce,
    MarkPutBack,
    InPlaceBlind,
    VolatileWatermark,
    ForgetBeforeRead,
    LateRewind,
    NoSlack,
    EagerSettle,
}

impl Defect {
    pub(crate) const ALL: [Self; 18] = [
        Self::None,
        Self::NoFingerprint,
        Self::StampNotAbove,
        Self::NoHeal,
        Self::NoMark,
        Self::PlainMark,
        Self::NoBump,
        Self::NoChainMemory,
        Self::MemoryLost,
        Self::NoNewStampFloor,
        Self::NoNonce,
        Self::MarkPutBack,
        Self::InPlaceBlind,
        Self::VolatileWatermark,
        Self::ForgetBeforeRead,
        Self::LateRewind,
        Self::NoSlack,
        Self::EagerSettle,
    ];

    fn named(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|defect| format!("{defect:?}") == name);
        found.unwrap_or_else(|| panic!("DEFECT: one of {:?}", Self::ALL))
    }
}

/// One search.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) regions: usize,
    pub(crate) keys: u8,
    /// Writes of applications.
    pub(crate) ops: u8,
    pub(crate) crashes: u8,
    /// Clocks that move on, in all regions together.
    pub(crate) ticks: u8,
    /// Clocks that go back.
    pub(crate) backs: u8,
    /// Requests that take effect, but whose answer is lost, so that they are made again.
    pub(crate) dups: u8,
    /// Requests that outlive their agent's wait, and land at any later time.
    pub(crate) zombies: u8,
    pub(crate) init: Init,
    pub(crate) put_backs: PutBacks,
    /// Peers' watermarks are taken in, and memory is forgotten.
    pub(crate) settles: bool,
    /// A checkpoint may rewind further than this key needs: to the start of a page, or because of
    /// another key.
    pub(crate) pages: bool,
    /// Records are read one by one, instead of as soon as they are there.
    pub(crate) lazy: bool,
    /// Agents may begin to stamp local writes in place, at any time.
    pub(crate) stamp_in_place: bool,
    pub(crate) defect: Defect,
    pub(crate) max_states: usize,
}

impl Setting {
    pub(crate) const fn new(name: &'static str, regions: usize, ops: u8) -> Self {
        Self {
            name,
            regions,
            keys: 1,
            ops,
            crashes: 0,
            ticks: 1,
            backs: 0,
            dups: 0,
            zombies: 0,
            init: Init::Absent,
            put_backs: PutBacks::Stamped,
            settles: true,
            pages: false,
            lazy: false,
            stamp_in_place: false,
            defect: Defect::None,
            max_states: 20_000_000,
        }
    }

    /// A search that the environment describes, as the documentation of the tests says.
    pub(crate) fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok();
        let number = |name: &str, or: u8| {
            var(name).map_or(or, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
        };
        Self {
            keys: number("KEYS", 1),
            crashes: number("CRASHES", 0),
            ticks: number("TICKS", 1),
            backs: number("CLOCK_BACKS", 0),
            dups: number("DUPS", 0),
            zombies: number("ZOMBIES", 0),
            init: if number("SHARED", 0) == 1 { Init::Shared } else { Init::Absent },
            put_backs: match number("BACKS", 1) {
                0 => PutBacks::None,
                1 => PutBacks::Stamped,
                2 => PutBacks::Own,
                _ => PutBacks::Any,
            },
            settles: number("SETTLES", 1) == 1,
            pages: number("PAGES", 0) == 1,
            lazy: number("LAZY", 0) == 1,
            stamp_in_place: number("INPLACE", 0) == 1,
            defect: var("DEFECT").map_or(Defect::None, |name| Defect::named(&name)),
            max_states: var("MAXSTATES")
                .map_or(20_000_000, |text| text.parse().expect("MAXSTATES: a number")),
            ..Self::new("from the environment", number("R", 2).into(), number("OPS", 2))
        }
    }
}

impl Setting {
    /// The most writes that agents may make.
    pub(crate) fn most_agent_writes(&self, _s: &super::world::State, by_apps: u8) -> usize {
        12 * self.regions * usize::from(by_apps.max(1))
    }
}
