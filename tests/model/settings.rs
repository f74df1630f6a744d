//! How large a search is, what may happen in it, and which rule is broken on purpose.

/// What the regions hold at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    Absent,
    /// Every key was written in region a long ago: bare there, stamped elsewhere.
    Shared,
    /// Region a alone has the first key, from before there were streams.
    Alone,
    /// All regions have the first key from then, and each has something else.
    Different,
    /// The last region wrote the first key long ago, and has lost it since.
    Lost,
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
    /// Every stamp matches the item that it is in.
    NoFingerprint,
    /// A stamp counts though the old image's is not below it.
    StampNotAbove,
    NoHeal,
    /// A delete is made at the peer at once.
    NoMark,
    /// A mark is set only where there is an item.
    PlainMark,
    /// The pusher marks, and deletes too.
    FarDelete,
    /// An agent knows the deletes that it applied by having done so.
    Recall,
    /// The old image's stamp does not count for the version of what replaces it.
    NoBump,
    /// Nor does what the memory knows.
    NoChainMemory,
    /// Nor does the new image's stamp.
    NoNewStampFloor,
    /// After a crash, the stream is read on from the first record that is not done.
    MemoryLost,
    /// After a crash, it is read from where the newest memory needs it.
    LateRewind,
    /// A heal that is read again by an agent without memory is none.
    StrangeHeal,
    /// A delete is applied wherever a mark of its version stands.
    NoNonce,
    /// A stamp does not tell which region it was set in.
    NoRegion,
    /// A mark that is put back passes for one that was just set.
    MarkPutBack,
    /// A stamp in place is set on whatever data stands there.
    InPlaceBlind,
    /// A promise is made of what has been read.
    EarlyWatermark,
    /// A promise is made of what is done, but not yet durably.
    VolatileWatermark,
    /// Memory is forgotten before the own heals and stamps are done.
    ForgetBeforeDone,
    /// Memory is forgotten before the own stream has been read so far.
    ForgetBeforeRead,
    /// Memory is forgotten right up to the watermarks.
    NoSlack,
    /// Of the floors, those of the rewind position are made durable, and no later ones.
    NoTerms,
    /// Nor those by which what is done was told from a replicated write.
    NotToldBy,
    /// Watermarks count though requests from before them are under way.
    EagerSettle,
    /// What is not for a region is not sent there, not even as a delete.
    NotSent,
    /// A seeder's hold is nobody's business.
    NoHold,
    /// A seeder reads before all that was written is everywhere.
    HoldNotAwaited,
    /// A seed has the version of a write that is made just now.
    SeedIsNew,
    /// What regions hold is settled at the first look.
    OneLook,
    /// A hold is said to be over while a seed is under way.
    EarlyRelease,
    /// What a hold kept is forgotten before it is known to be over.
    ForgetAtRelease,
    /// Seeds can't be told from copies that an application puts back.
    SeedIsNoSeed,
    /// A write that does for the one before it keeps its own base.
    OwnBase,
    /// A write does for the one before it, whatever came between the two.
    PastConflict,
    /// A push names the stamp that it expects, and not the data.
    NoGuard,
    /// It names the data, and not the version of what it replaces.
    NoBase,
    /// Nor does a heal.
    BlindHeal,
    /// A heal takes a copy that was put back for one more older write.
    HealOverCopy,
    /// It does so where only the floors show that it is a copy.
    HealPastFloors,
    /// Nor does the delete of a marked item.
    BlindDelete,
    /// What an application wrote on top of a lower stamp passes for the write of that stamp.
    AgainOnTop,
    /// A stamp is set in place by putting the record's data back.
    StampByPut,
    /// A contended push is waited for, and nothing more.
    NoStamp,
    /// A contended push is made though something newer has come to the own replica.
    NotDropped,
    /// A stamp beside newer data is taken for an application's write.
    StampIsWrite,
    /// A copy from another region, put back over the same data, is taken for a stamp beside newer data.
    CopyIsStamp,
}

impl Defect {
    const ALL: [Self; 48] = [
        Self::None,
        Self::NoFingerprint,
        Self::StampNotAbove,
        Self::NoHeal,
        Self::NoMark,
        Self::PlainMark,
        Self::FarDelete,
        Self::Recall,
        Self::NoBump,
        Self::NoChainMemory,
        Self::NoNewStampFloor,
        Self::MemoryLost,
        Self::LateRewind,
        Self::StrangeHeal,
        Self::NoNonce,
        Self::NoRegion,
        Self::MarkPutBack,
        Self::InPlaceBlind,
        Self::EarlyWatermark,
        Self::VolatileWatermark,
        Self::ForgetBeforeDone,
        Self::ForgetBeforeRead,
        Self::NoSlack,
        Self::NoTerms,
        Self::NotToldBy,
        Self::EagerSettle,
        Self::NotSent,
        Self::NoHold,
        Self::HoldNotAwaited,
        Self::SeedIsNew,
        Self::OneLook,
        Self::EarlyRelease,
        Self::ForgetAtRelease,
        Self::SeedIsNoSeed,
        Self::OwnBase,
        Self::PastConflict,
        Self::NoGuard,
        Self::NoBase,
        Self::BlindHeal,
        Self::HealOverCopy,
        Self::HealPastFloors,
        Self::BlindDelete,
        Self::AgainOnTop,
        Self::StampByPut,
        Self::NoStamp,
        Self::NotDropped,
        Self::StampIsWrite,
        Self::CopyIsStamp,
    ];

    fn named(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|defect| format!("{defect:?}") == name);
        found.unwrap_or_else(|| panic!("DEFECT: one of {:?}", Self::ALL))
    }
}

/// One search.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that may happen")]
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
    /// Old copies may be put back with new data and their old stamp.
    pub(crate) edits: bool,
    /// Peers' watermarks are read, and memory is forgotten.
    pub(crate) settles: bool,
    /// A checkpoint may rewind further than this key needs: to the start of a page, or because of
    /// another key.
    pub(crate) pages: bool,
    /// Records are read one by one, instead of as soon as they are there.
    pub(crate) lazy: bool,
    /// The last region takes only items with even data.
    pub(crate) selects: bool,
    /// A seeder brings the regions to the same item of the first key.
    pub(crate) seeds: bool,
    /// Agents may begin to stamp local writes in place, at any time.
    pub(crate) stamp_in_place: bool,
    /// A queued write may do for the one before it.
    pub(crate) coalesces: bool,
    /// The first write of each region has the same data, and so the second.
    pub(crate) alike: bool,
    /// Agents lose their patience with a contended write at any time: the other one may be down.
    pub(crate) hasty: bool,
    /// Only the first region's application writes.
    pub(crate) alone: bool,
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
            edits: false,
            settles: true,
            pages: false,
            lazy: false,
            selects: false,
            seeds: false,
            stamp_in_place: false,
            coalesces: false,
            alike: false,
            hasty: false,
            alone: false,
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
            init: match number("INIT", number("SHARED", 0)) {
                0 => Init::Absent,
                1 => Init::Shared,
                2 => Init::Alone,
                3 => Init::Different,
                _ => Init::Lost,
            },
            put_backs: match number("BACKS", 1) {
                0 => PutBacks::None,
                1 => PutBacks::Stamped,
                2 => PutBacks::Own,
                _ => PutBacks::Any,
            },
            edits: number("EDITS", 0) == 1,
            settles: number("SETTLES", 1) == 1,
            pages: number("PAGES", 0) == 1,
            lazy: number("LAZY", 0) == 1,
            selects: number("SELECTS", 0) == 1,
            seeds: number("SEEDS", 0) == 1,
            stamp_in_place: number("INPLACE", 0) == 1,
            coalesces: number("COALESCE", 0) == 1,
            alike: number("ALIKE", 0) == 1,
            hasty: number("HASTY", 0) == 1,
            alone: number("ALONE", 0) == 1,
            defect: var("DEFECT").map_or(Defect::None, |name| Defect::named(&name)),
            max_states: var("MAXSTATES")
                .map_or(20_000_000, |text| text.parse().expect("MAXSTATES: a number")),
            ..Self::new("from the environment", number("R", 2).into(), number("OPS", 2))
        }
    }
}

impl Setting {
    /// The most writes that agents may make, for so many of applications and so many faults
    /// (crashes, lost answers, late requests).
    ///
    /// Each push costs at most three: itself, and where it lost or deletes, a mark and the delete,
    /// or a heal. One more stamps the write in place: where it is contended, where a copy is put back, or
    /// where memory would not do. A fault repeats that at most once.
    pub(crate) fn most_agent_writes(&self, by_apps: u8, faults: u8) -> usize {
        let each = 3 * (self.regions - 1) + 1;
        // A seed costs as much as a push, for each region and write that it meets.
        let seeds = usize::from(self.seeds) * 3 * self.regions * usize::from(1 + by_apps);
        (each * usize::from(by_apps) + seeds) * usize::from(1 + faults)
    }
}
