//! The steps from what exists to what is needed, and what no step can fix.

use super::look::{Own, OwnTable, Replica, Replicas, has_own_keys};
use super::{Change, Model, Plan, Problem, Step};
use crate::control::{EXPIRES, PK, SK};
use crate::protocol::{Origin, STAMP};
use crate::schema::{Described, StreamState};

impl Plan {
    pub(super) fn of(own_tables: &[OwnTable], tables: &[Replicas], create_tables: bool) -> Self {
        let mut plan = Self { steps: Vec::new(), problems: Vec::new() };
        for table in own_tables {
            plan.own_table(table);
        }
        for table in tables {
            plan.table(table, create_tables);
        }
        plan
    }

    fn own_table(&mut self, table: &OwnTable) {
        let OwnTable { region, name, own, found, ttl } = table;
        let at = At { region, table: name };
        let Some(found) = found else {
            self.step(at, own.create());
            self.step(at, Change::EnableTtl(EXPIRES.to_owned()));
            if *own == Own::Control {
                self.step(at, Change::EnableStream);
            }
            return;
        };
        if let Some(reason) = &found.managed {
            self.problem(at, reason.clone());
        }
        if !has_own_keys(found) {
            let (what, setting) = own.words();
            let problem = format!(
                "this is not a {what} table: its keys are {}, not {PK} and {SK}; name another one with `{setting}` in \
                 regions.toml",
                found.key_schema
            );
            return self.problem(at, problem);
        }
        if ttl.is_none() {
            self.step(at, Change::EnableTtl(EXPIRES.to_owned()));
        }
        // Heartbeats pass through it. A stream with another view type is its owner's to change.
        if *own == Own::Control && found.stream == StreamState::Off {
            self.step(at, Change::EnableStream);
        }
    }

    fn table(&mut self, table: &Replicas, create_tables: bool) {
        let mut first: Option<(&Origin, &Described)> = None;
        for replica in &table.replicas {
            let Some(found) = &replica.found else { continue };
            self.replica(replica, found);
            match first {
                None => {
                    if found.key_schema.names().any(|key| key == STAMP) {
                        let problem =
                            format!("{STAMP} is a key attribute, but it must hold Tradewind's stamp");
                        self.problem(At::replica(replica), problem);
                    }
                    first = Some((&replica.region, found));
                }
                Some((like, expected)) if expected.key_schema != found.key_schema => {
                    let problem = format!(
                        "its keys are {}, but in region {like} they are {}; replicas need the same keys: recreate this \
                         one",
                        found.key_schema, expected.key_schema
                    );
                    self.problem(At::replica(replica), problem);
                }
                Some(_) => {}
            }
        }
        for replica in table.replicas.iter().filter(|replica| replica.found.is_none()) {
            self.missing(At::replica(replica), first, table.ttl.as_deref(), create_tables);
        }
    }

    /// Checks what a replica must have, whatever the others are like.
    fn replica(&mut self, replica: &Replica, found: &Described) {
        let at = At::replica(replica);
        for reason in [&found.managed, &replica.elsewhere].into_iter().flatten() {
            self.problem(at, reason.clone());
        }
        match &found.stream {
            StreamState::On { .. } => {}
            StreamState::Off => self.step(at, Change::EnableStream),
            StreamState::Partial { view, .. } => {
                let Some(lacks) = &replica.lacks else { return };
                let problem = format!(
                    "its stream shows {}, but {lacks}. A stream's view type can't be \
                     changed: once its other readers can do without it, turn it off (`aws dynamodb update-table \
                     --table-name {} --stream-specification StreamEnabled=false`), and run `tradewind init` again",
                    view.name(),
                    at.table
                );
                self.problem(at, problem);
            }
        }
    }

    /// A replica to be created like the first one.
    fn missing(
        &mut self,
        at: At<'_>,
        first: Option<(&Origin, &Described)>,
        ttl: Option<&str>,
        create_tables: bool,
    ) {
        let Some((like, model)) = first else {
            let problem =
                "it exists in no region: create it in one, and run `tradewind init --create-tables`";
            return self.problem(at, problem.to_owned());
        };
        if !create_tables {
            let problem = format!(
                "it is missing; `tradewind init --create-tables` creates it like the one in region {like}"
            );
            return self.problem(at, problem);
        }
        let model = Model { like: like.clone(), table: model.table.clone() };
        self.step(at, Change::CreateTable(Box::new(model)));
        if let Some(attribute) = ttl {
            self.step(at, Change::EnableTtl(attribute.to_owned()));
        }
    }

    fn step(&mut self, at: At<'_>, change: Change) {
        self.steps.push(Step { region: at.region.clone(), table: at.table.to_owned(), change });
    }

    fn problem(&mut self, at: At<'_>, problem: String) {
        self.problems.push(Problem { region: at.region.clone(), table: at.table.to_owned(), problem });
    }
}

/// Which table of which region.
#[derive(Clone, Copy)]
struct At<'a> {
    region: &'a Origin,
    table: &'a str,
}

impl<'a> At<'a> {
    fn replica(replica: &'a Replica) -> Self {
        Self { region: &replica.region, table: &replica.name }
    }
}

impl Own {
    fn create(self) -> Change {
        match self {
            Self::Control => Change::CreateControlTable,
            Self::Conflicts => Change::CreateConflictTable,
        }
    }

    /// What it is called, and the setting that names it.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Control => ("control", "control_table"),
            Self::Conflicts => ("conflict", "conflict_table"),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, KeySchemaElement, KeyType, ScalarAttributeType, StreamSpecification,
        StreamViewType, TableDescription,
    };

    use super::*;

    fn origin(name: &str) -> Origin {
        name.parse().expect("a legal name")
    }

    /// A table with these keys, and perhaps a stream.
    fn described(keys: &[&str], view: Option<StreamViewType>) -> Described {
        let mut table = TableDescription::builder().table_name("orders");
        for (key, kind) in keys.iter().zip([KeyType::Hash, KeyType::Range]) {
            let element = KeySchemaElement::builder().attribute_name(*key).key_type(kind);
            let definition = AttributeDefinition::builder().attribute_name(*key);
            let definition = definition.attribute_type(ScalarAttributeType::S).build().expect("a definition");
            table = table.attribute_definitions(definition).key_schema(element.build().expect("a key"));
        }
        if let Some(view) = view {
            let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(view);
            table = table.stream_specification(stream.build().expect("a stream")).latest_stream_arn("arn");
        }
        Described::from(table.build())
    }

    fn own(own: Own, found: Option<Described>, ttl: Option<&str>) -> OwnTable {
        OwnTable { region: origin("dublin"), name: "tw".to_owned(), own, found, ttl: ttl.map(str::to_owned) }
    }

    fn replica(region: &str, found: Option<Described>) -> Replica {
        Replica {
            region: origin(region),
            name: "orders".to_owned(),
            found,
            lacks: Some("NEW_AND_OLD_IMAGES is needed to replicate".to_owned()),
            elsewhere: None,
        }
    }

    /// What a plan says, one line each.
    fn told(plan: &Plan) -> Vec<String> {
        let steps = plan.steps.iter().map(ToString::to_string);
        steps.chain(plan.problems.iter().map(|problem| problem.problem.clone())).collect()
    }

    #[test]
    fn own_tables_are_made_and_put_right_but_another_s_is_left_alone() {
        let (keys, both) = ([PK, SK], Some(StreamViewType::NewAndOldImages));
        let create = "dublin: create the control table tw";
        let (stream, ttl) = (
            "dublin: turn on the stream of tw, with NEW_AND_OLD_IMAGES",
            "dublin: turn on time to live of tw, by expires",
        );
        let cases: [(OwnTable, &[&str]); 6] = [
            (own(Own::Control, None, None), &[create, ttl, stream]),
            (own(Own::Conflicts, None, None), &["dublin: create the conflict table tw", ttl]),
            (own(Own::Control, Some(described(&keys, both)), Some(EXPIRES)), &[]),
            (own(Own::Control, Some(described(&keys, None)), None), &[ttl, stream]),
            (own(Own::Conflicts, Some(described(&keys, None)), Some(EXPIRES)), &[]),
            (
                own(Own::Control, Some(described(&["id"], None)), None),
                &[
                    "this is not a control table: its keys are id (HASH key, S), not pk and sk; name another one with \
                   `control_table` in regions.toml",
                ],
            ),
        ];
        for (table, expected) in cases {
            assert_eq!(told(&Plan::of(&[table], &[], false)), expected);
        }
    }

    #[test]
    fn replicas_are_made_like_the_first_one_that_is_there() {
        let there = || Some(described(&["id"], Some(StreamViewType::NewAndOldImages)));
        let plan = |found: [Option<Described>; 2], create_tables| {
            let replicas = ["dublin", "tokyo"].into_iter().zip(found);
            let replicas = replicas.map(|(region, found)| replica(region, found)).collect();
            told(&Plan::of(&[], &[Replicas { replicas, ttl: Some("until".to_owned()) }], create_tables))
        };
        assert!(plan([there(), there()], false).is_empty());
        assert_eq!(
            plan([None, there()], true),
            [
                "dublin: create the table orders like the one in tokyo",
                "dublin: turn on time to live of orders, by until"
            ]
        );
        let missing =
            "it is missing; `tradewind init --create-tables` creates it like the one in region dublin";
        assert_eq!(plan([there(), None], false), [missing]);
        let nowhere = "it exists in no region: create it in one, and run `tradewind init --create-tables`";
        assert_eq!(plan([None, None], true), [nowhere, nowhere]);
        let off = Some(described(&["id"], None));
        assert_eq!(
            plan([there(), off], true),
            ["tokyo: turn on the stream of orders, with NEW_AND_OLD_IMAGES"]
        );
    }

    #[test]
    fn what_no_step_can_fix_is_a_problem() {
        let both = || Some(StreamViewType::NewAndOldImages);
        let found = [described(&[STAMP], both()), described(&["id"], Some(StreamViewType::KeysOnly))];
        let mut replicas: Vec<Replica> = ["dublin", "tokyo"]
            .into_iter()
            .zip(found)
            .map(|(region, found)| replica(region, Some(found)))
            .collect();
        replicas[1].elsewhere = Some("another setup's".to_owned());
        let plan = Plan::of(&[], &[Replicas { replicas, ttl: None }], true);
        assert!(plan.steps.is_empty());
        let begins = [
            (0, "is a key attribute"),
            (1, "another setup's"),
            (2, "its stream shows KEYS_ONLY"),
            (3, "its keys are"),
        ];
        assert_eq!(plan.problems.len(), begins.len());
        for (at, words) in begins {
            assert!(plan.problems[at].problem.contains(words), "{:?}", plan.problems);
        }
    }
}
