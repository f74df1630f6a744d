//! The tables of an agent: named ones, and those that its patterns find, now and later. Each has a supervisor
//! of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::StartError;
use super::crew::Member;
use super::figures::{Figures, TableStatus};
use super::keeper::Keeper;
use super::plan::Site;
use super::table::TablePlan;
use crate::config::TableConfig;
use crate::contained::{caught, contained};

/// The result of checking all tables, before the agent starts.
pub(super) struct FirstTry {
    pub(super) site: Arc<Site>,
    figures: Figures,
    tried: Vec<Tried>,
    has_patterns: bool,
}

struct Tried {
    table: TableConfig,
    /// Whether it was found by a pattern.
    found: bool,
    status: Arc<TableStatus>,
    plan: Result<TablePlan, StartError>,
}

impl FirstTry {
    /// Fails if there are tables to replicate, but none of them can be.
    pub(super) async fn make(site: Site, figures: Figures) -> Result<Self, StartError> {
        let site = Arc::new(site);
        let local = &site.local.name;
        let deadline = Instant::now() + site.config.tuning.startup_timeout;
        let named = site.config.tables.iter().filter(|table| table.is_in(local));
        let mut tables: Vec<_> = named.map(|table| (table.clone(), false)).collect();
        let found = site.find(deadline).await;
        let has_patterns = found.is_some();
        if tables.is_empty() && !has_patterns {
            return Err(StartError::NoTable(local.clone()));
        }
        let mut blind = None;
        match found.transpose() {
            Ok(found) => {
                tables.extend(found.unwrap_or_default().into_values().map(|table| (table, true)));
            }
            Err(trouble) => blind = Some(trouble),
        }
        let tried = try_all(&site, &figures, tables, deadline).await;
        if tried.iter().all(|tried| tried.plan.is_err()) {
            let mut troubles = tried.iter().filter_map(|tried| tried.plan.as_ref().err()).chain(&blind);
            if let Some(first) = troubles.next() {
                // The caller reports the first one.
                troubles.for_each(|trouble| error!("{}", trouble.in_one_line()));
                return Err(first.clone());
            }
        }
        site.check_control_table(deadline).await?;
        if let Some(trouble) = blind {
            complain(&figures, trouble);
        } else if tried.is_empty() {
            info!(region = %local, "no table matches a pattern yet: waiting for one");
        }
        Ok(Self { site, figures, tried, has_patterns })
    }
}

/// Tries to start all tables concurrently; the results are in the order of the tables.
async fn try_all(
    site: &Arc<Site>,
    figures: &Figures,
    tables: Vec<(TableConfig, bool)>,
    deadline: Instant,
) -> Vec<Tried> {
    let mut running = JoinSet::new();
    for (i, (table, found)) in tables.into_iter().enumerate() {
        let (site, status) = (Arc::clone(site), figures.add(&table.name));
        running.spawn(async move {
            let plan = site.plan(&table, &status, deadline).await;
            (i, Tried { table, found, status, plan })
        });
    }
    let tried: BTreeMap<usize, Tried> = running.join_all().await.into_iter().collect();
    tried.into_values().collect()
}

/// The tables of a running agent.
pub(super) struct Tables {
    site: Arc<Site>,
    figures: Figures,
    member: Member,
    stop: CancellationToken,
    keepers: JoinSet<String>,
    /// The tables found by patterns.
    found: BTreeSet<String>,
    /// For the pauses between searches for new tables; `None` if there are no patterns.
    rng: Option<fastrand::Rng>,
}

impl Tables {
    pub(super) fn start(first: FirstTry, member: Member, stop: CancellationToken) -> Self {
        let FirstTry { site, figures, tried, has_patterns } = first;
        let (keepers, found) = (JoinSet::new(), BTreeSet::new());
        let rng = has_patterns.then(fastrand::Rng::new);
        let mut tables = Self { site, figures, member, stop, keepers, found, rng };
        for Tried { table, found, status, plan } in tried {
            if found {
                tables.found.insert(table.name.clone());
            }
            tables.keep(table, found, status, Some(plan));
        }
        tables
    }

    /// Supervises all tables until it is stopped, and all have finished what is in progress.
    pub(super) async fn run(mut self) {
        let site = Arc::clone(&self.site);
        let stop = self.stop.clone();
        let mut next_look = self.next_look();
        while next_look.is_some() || !self.keepers.is_empty() {
            let look = async {
                match next_look {
                    None => std::future::pending().await,
                    Some(next) => {
                        tokio::time::sleep_until(next).await;
                        caught(site.find(Instant::now())).await
                    }
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ended = self.keepers.join_next(), if !self.keepers.is_empty() => match ended {
                    Some(Ok(table)) => {
                        self.figures.remove(&table);
                        self.found.remove(&table);
                    }
                    Some(Err(error)) => error!(%error, "table supervisor panicked"),
                    None => {}
                },
                found = look => {
                    match found {
                        Ok(Some(Ok(found))) => self.welcome(found),
                        Ok(Some(Err(trouble))) => complain(&self.figures, trouble),
                        Ok(None) => {}
                        Err(panic) => error!("the search for tables panicked, which is a defect: {panic} (retrying)"),
                    }
                    next_look = self.next_look();
                }
            }
        }
        while self.keepers.join_next().await.is_some() {}
    }

    /// Agents that were started together should not all search at once.
    fn next_look(&mut self) -> Option<Instant> {
        let rng = self.rng.as_mut()?;
        let pause = self.site.config.tuning.discovery_interval.mul_f64(0.75 + rng.f64() / 2.0);
        Some(Instant::now() + pause)
    }

    /// Starts the new ones.
    fn welcome(&mut self, found: BTreeMap<String, TableConfig>) {
        self.figures.note_blind(None);
        for (name, table) in found {
            if self.found.insert(name.clone()) {
                info!(region = %self.site.local.name, table = name, "found a table");
                let status = self.figures.add(&name);
                self.keep(table, true, status, None);
            }
        }
    }

    fn keep(
        &mut self,
        table: TableConfig,
        found: bool,
        status: Arc<TableStatus>,
        plan: Option<Result<TablePlan, StartError>>,
    ) {
        let (site, member) = (Arc::clone(&self.site), self.member.clone());
        let name = table.name.clone();
        let keeper = Keeper { site, member, table, found, status };
        let stop = self.stop.clone();
        self.keepers.spawn(async move {
            let mut plan = plan;
            let what = format!("the supervisor of table {name}");
            contained(what, &stop, || keeper.run(plan.take(), &stop)).await;
            name
        });
    }
}

/// Logs once why tables can't be found.
fn complain(figures: &Figures, trouble: StartError) {
    let text = trouble.in_one_line();
    if figures.note_blind(Some(trouble)) {
        error!("can't look for tables by pattern: {text} (retrying)");
    } else {
        debug!("can't look for tables by pattern: {text}");
    }
}
