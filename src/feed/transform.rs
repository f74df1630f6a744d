//! What is told in place of an event: what a program in jq's language makes of it.
//!
//! A program may loop for ever, recurse without end, or yield without end. So each of its terms counts as a step, and
//! it runs on a stack of its own; an event for which it exceeds a bound is one that it fails on.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use jaq_core::box_iter::box_once;
use jaq_core::data::HasLut;
use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::native::{Fun, v};
use jaq_core::path::{Part, Path};
use jaq_core::{Compiler, Ctx, DataT, Error, Exn, Filter, Lut, Native, Vars};
use jaq_json::Val;
use serde_json::Value;

/// How many steps a program may take with one event.
const MOST_STEPS: u32 = 300_000;
/// The stack that a program runs on, and how much of it a step may find in use: what is nested deep needs the rest to be
/// freed. Memory is taken as it is used.
const STACK_BYTES: usize = 512 << 20;
const MOST_STACK_BYTES: usize = 64 << 20;
/// How large a value may be that a program yields: its JSON, in bytes, and how deep it is nested. Items are nested 32
/// levels deep at most, each of which is two in JSON.
const MOST_BYTES: usize = 4 << 20;
const MOST_LEVELS: usize = 100;

/// The name of what counts a step, which no program can spell.
const STEP: &str = "!step";
/// The name of the whole program.
const PROGRAM: &str = "program";

/// What the language has beside filters: the machine's clock, environment and output, and an end of the process.
const WITHHELD: [&str; 7] =
    ["now", "env", "halt", "debug_empty", "stderr_empty", "localtime", "strflocaltime"];

/// A program that makes one value of an event, or none.
#[derive(Clone)]
pub struct Transform(Arc<Filter<Bounded>>);

impl fmt::Debug for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transform")
    }
}

/// Why a text is no program.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransformError(String);

/// Why a program makes nothing of an event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTransformed {
    #[error("it takes more than {MOST_STEPS} steps")]
    TooLong,
    #[error("it recurses too deep")]
    TooDeep,
    #[error("it yields more than one value")]
    Several,
    #[error(
        "it yields a value that is longer than {MOST_BYTES} bytes or nested deeper than {MOST_LEVELS} levels"
    )]
    TooLarge,
    #[error("it yields a value that JSON can't show")]
    NoJson,
    #[error("{0}")]
    Failed(String),
}

impl FromStr for Transform {
    type Err = TransformError;

    fn from_str(code: &str) -> Result<Self, TransformError> {
        let program = parse(code)?;
        let known = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        // The language's own counts no steps.
        let range = "def range($from; $to; $by): def up: if . < $to then ., (. + $by | up) else {}[] end; \
                     def down: if . > $to then ., (. + $by | down) else {}[] end; \
                     def same: if . != $to then ., same else {}[] end; \
                     $from | if $by > 0 then up elif $by < 0 then down else same end;";
        let range = load::parse(range, |parser| parser.defs()).unwrap_or_default();
        let mut defs: Vec<Def<&str>> = range.into_iter().chain(known).collect();
        defs.push(Def { name: PROGRAM, args: Vec::new(), body: program });
        let defs = defs.into_iter().map(bounded_def);
        let (arena, file) = (Arena::default(), File { code: PROGRAM, path: () });
        let modules = Loader::new(defs).load(&arena, file).map_err(|_| no_program("can't load it"))?;
        let filter = Compiler::default().with_funs(functions()).compile(modules);
        let filter = filter.map_err(|errors| {
            let unknown = errors
                .iter()
                .flat_map(|(_, errors)| errors)
                .map(|(name, what)| format!("there is no {} {name:?}", what.as_str()));
            TransformError(unknown.collect::<Vec<_>>().join(", "))
        })?;
        Ok(Self(Arc::new(filter)))
    }
}

impl Transform {
    /// What is told in place of an event; nothing if the program yields nothing.
    pub fn of(&self, event: &Value) -> Result<Option<Value>, NotTransformed> {
        let event = event.to_string();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("transform".to_owned()).stack_size(STACK_BYTES);
            let run = thread.spawn_scoped(scope, || self.run(&event));
            let run = run.map_err(|error| NotTransformed::Failed(error.to_string()))?;
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn run(&self, event: &str) -> Result<Option<Value>, NotTransformed> {
        let event = jaq_json::read::parse_single(event.as_bytes());
        let event = event.map_err(|error| NotTransformed::Failed(error.to_string()))?;
        let bounds = Bounds { stack: stack(), ..Bounds::default() };
        let run = Run { lut: &self.0.lut, bounds: &bounds };
        let mut yielded = self.0.id.run((Ctx::<Bounded>::new(run, Vars::new([])), event));
        let first = yielded.next();
        let is_several = matches!((&first, yielded.next()), (Some(Ok(_)), Some(_)));
        // A program may have caught the error of a step.
        if let Some(exceeded) = bounds.exceeded.take() {
            return Err(exceeded);
        }
        match first {
            _ if is_several => Err(NotTransformed::Several),
            None => Ok(None),
            Some(Ok(value)) => json(&value).map(Some),
            Some(Err(error)) => Err(NotTransformed::Failed(match error.get_err() {
                Ok(error) => error.to_string().chars().take(500).collect(),
                Err(_) => "it ends the process".to_owned(),
            })),
        }
    }
}

fn no_program(why: &str) -> TransformError {
    TransformError(format!("no program in jq's language: {why}"))
}

fn parse(code: &str) -> Result<Term<&str>, TransformError> {
    let place = |part: &str| {
        let at = load::span(code, part).start;
        let line = code[..at].matches('\n').count() + 1;
        let column = code[..at].chars().rev().take_while(|char| *char != '\n').count() + 1;
        format!("line {line}, column {column}")
    };
    let tokens = load::Lexer::new(code).lex().map_err(|errors| {
        let what =
            errors.iter().map(|(expected, at)| format!("expected {} at {}", expected.as_str(), place(at)));
        no_program(&what.collect::<Vec<_>>().join(", "))
    })?;
    load::Parser::new(&tokens).parse(load::Parser::term).map_err(|errors| {
        let what = errors.iter().map(|(expected, found)| match found {
            Some(token) => format!("expected {} at {}", expected.as_str(), place(token.0)),
            None => format!("expected {} at the end", expected.as_str()),
        });
        no_program(&what.collect::<Vec<_>>().join(", "))
    })
}

/// A value as JSON, if it is not too large.
fn json(value: &Val) -> Result<Value, NotTransformed> {
    /// Fails when it is full.
    struct Text(String);
    impl Write for Text {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            if self.0.len() + more.len() > MOST_BYTES {
                return Err(fmt::Error);
            }
            self.0.push_str(more);
            Ok(())
        }
    }
    fn is_shallow(value: &Val, levels: usize, nodes: &Cell<usize>) -> bool {
        nodes.set(nodes.get() + 1);
        nodes.get() <= MOST_BYTES
            && match value {
                Val::Arr(items) => levels > 0 && items.iter().all(|item| is_shallow(item, levels - 1, nodes)),
                Val::Obj(items) => {
                    levels > 0 && items.values().all(|item| is_shallow(item, levels - 1, nodes))
                }
                _ => true,
            }
    }
    let mut text = Text(String::new());
    if !is_shallow(value, MOST_LEVELS, &Cell::default()) || write!(text, "{value}").is_err() {
        return Err(NotTransformed::TooLarge);
    }
    serde_json::from_str(&text.0).map_err(|_| NotTransformed::NoJson)
}

/// A program's data: values of JSON, and how far it may go on.
struct Bounded;

impl DataT for Bounded {
    type V<'a> = Val;
    type Data<'a> = Run<'a>;
}

#[derive(Clone)]
struct Run<'a> {
    lut: &'a Lut<Bounded>,
    bounds: &'a Bounds,
}

#[derive(Default)]
struct Bounds {
    /// Where the stack was when the program began.
    stack: usize,
    steps: Cell<u32>,
    exceeded: Cell<Option<NotTransformed>>,
}

impl<'a> HasLut<'a, Bounded> for Run<'a> {
    fn lut(&self) -> &'a Lut<Bounded> {
        self.lut
    }
}

impl Bounds {
    fn step<'a>(&self) -> Result<(), Exn<'a, Val>> {
        self.steps.set(self.steps.get() + 1);
        let exceeded = if self.steps.get() > MOST_STEPS {
            NotTransformed::TooLong
        } else if self.stack.abs_diff(stack()) > MOST_STACK_BYTES {
            NotTransformed::TooDeep
        } else {
            return Ok(());
        };
        // Whatever follows fails, too.
        self.steps.set(MOST_STEPS);
        let error = Error::str(&exceeded);
        self.exceeded.set(Some(self.exceeded.take().unwrap_or(exceeded)));
        Err(error.into())
    }
}

/// Where the stack is now.
#[inline(never)]
fn stack() -> usize {
    let here = 0_u8;
    (&raw const here).addr()
}

/// The functions of the language that depend on nothing but their input, and the one that counts a step.
fn functions() -> impl Iterator<Item = Fun<Bounded>> {
    let all = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let step =
        Native::<Bounded>::new(|(context, value)| box_once(context.data().bounds.step().map(|()| value)));
    let step = step.with_paths(|(context, value)| box_once(context.data().bounds.step().map(|()| value)));
    let step = step.with_update(|(context, value), update| match context.data().bounds.step() {
        Ok(()) => update(value),
        Err(error) => box_once(Err(error)),
    });
    // Its outputs are without number, and no steps.
    let is_range = |name: &str, arguments: usize| name == "range" && arguments == 3;
    all.filter(move |(name, arguments, _)| !is_range(name, arguments.len()))
        .map(|(name, arguments, function)| {
            if WITHHELD.contains(&name) { (name, arguments, withheld()) } else { (name, arguments, function) }
        })
        .chain([(STEP, v(0), step)])
}

fn withheld() -> Native<Bounded> {
    Native::new(|_| {
        let message = "it asks for the time, the environment, an output or an end, which no event decides";
        box_once(Err(Error::str(message).into()))
    })
}

fn bounded_def(def: Def<&str>) -> Def<&str> {
    let Def { name, args, body } = def;
    Def { name, args, body: bounded(body, true) }
}

/// A term whose outputs are steps; or one in a tail's place, whose calls are, so that they stay calls in a tail's place.
fn bounded(term: Term<&str>, is_tail: bool) -> Term<&str> {
    let counted = |term| bounded(term, false);
    let boxed = |term: Box<Term<_>>| Box::new(bounded(*term, false));
    let tail = |term: Box<Term<_>>| Box::new(bounded(*term, true));
    let all = |terms: Vec<_>| terms.into_iter().map(counted).collect();
    let step = || Box::new(Term::Call(STEP, Vec::new()));
    let pipe = |left, right| Term::BinOp(left, BinaryOp::Pipe(None), right);
    let term = match term {
        simple @ (Term::Id | Term::Num(_) | Term::Var(_) | Term::Break(_)) => return simple,
        Term::Recurse => Term::Recurse,
        Term::Str(format, parts) => {
            let part = |part| match part {
                StrPart::Term(term) => StrPart::Term(counted(term)),
                literal => literal,
            };
            Term::Str(format, parts.into_iter().map(part).collect())
        }
        Term::Arr(items) => Term::Arr(items.map(boxed)),
        Term::Obj(entries) => {
            let entry = |(key, value): (_, Option<_>)| (counted_key(key), value.map(counted));
            Term::Obj(entries.into_iter().map(entry).collect())
        }
        Term::Neg(term) => Term::Neg(boxed(term)),
        Term::BinOp(left, BinaryOp::Comma, right) => Term::BinOp(tail(left), BinaryOp::Comma, tail(right)),
        Term::BinOp(left, BinaryOp::Pipe(pattern), right) => {
            Term::BinOp(boxed(left), BinaryOp::Pipe(pattern.map(bounded_pattern)), tail(right))
        }
        Term::BinOp(left, operator, right) => Term::BinOp(boxed(left), operator, boxed(right)),
        Term::Label(name, term) => Term::Label(name, tail(term)),
        Term::Fold(name, source, pattern, terms) => {
            Term::Fold(name, boxed(source), bounded_pattern(pattern), all(terms))
        }
        Term::TryCatch(term, catch) => Term::TryCatch(boxed(term), catch.map(boxed)),
        Term::IfThenElse(branches, otherwise) => {
            let branch = |(when, then)| (counted(when), bounded(then, true));
            Term::IfThenElse(branches.into_iter().map(branch).collect(), otherwise.map(tail))
        }
        Term::Def(defs, term) => Term::Def(defs.into_iter().map(bounded_def).collect(), tail(term)),
        Term::Call(name, arguments) => {
            let arguments = arguments.into_iter().map(|argument| bounded(argument, true)).collect();
            pipe(step(), Box::new(Term::Call(name, arguments)))
        }
        Term::Path(term, Path(parts)) => {
            let part = |(part, optional)| {
                let part = match part {
                    Part::Index(index) => Part::Index(counted(index)),
                    Part::Range(from, to) => Part::Range(from.map(counted), to.map(counted)),
                };
                (part, optional)
            };
            Term::Path(boxed(term), Path(parts.into_iter().map(part).collect()))
        }
    };
    if is_tail { term } else { pipe(Box::new(term), step()) }
}

/// The key of an object's entry; one that is a literal or a variable alone stays as it is, since its value may follow
/// from it.
fn counted_key(key: Term<&str>) -> Term<&str> {
    match key {
        Term::Str(..) => key,
        other => bounded(other, false),
    }
}

fn bounded_pattern(pattern: Pattern<&str>) -> Pattern<&str> {
    match pattern {
        Pattern::Var(name) => Pattern::Var(name),
        Pattern::Arr(patterns) => Pattern::Arr(patterns.into_iter().map(bounded_pattern).collect()),
        Pattern::Obj(entries) => {
            let entry = |(key, pattern)| (counted_key(key), bounded_pattern(pattern));
            Pattern::Obj(entries.into_iter().map(entry).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(code: &str, event: &Value) -> Result<Option<Value>, NotTransformed> {
        code.parse::<Transform>().expect(code).of(event)
    }

    #[test]
    fn a_program_makes_one_value_of_an_event_or_none() {
        let event = json!({
            "eventName": "INSERT",
            "dynamodb": { "NewImage": { "id": { "S": "17" }, "tags": { "L": [{ "S": "a" }, { "S": "b" }] } } },
        });
        for (code, expected) in [
            (".", Some(event.clone())),
            (
                "{ id: .dynamodb.NewImage.id.S, what: .eventName | ascii_downcase }",
                Some(json!({ "id": "17", "what": "insert" })),
            ),
            ("select(.eventName == \"REMOVE\")", None),
            ("empty", None),
            ("null", Some(Value::Null)),
            ("[.dynamodb.NewImage.tags.L[].S] | join(\",\")", Some(json!("a,b"))),
            ("del(.dynamodb.NewImage.tags) | .dynamodb.NewImage | keys", Some(json!(["id"]))),
            (
                ".dynamodb.NewImage |= with_entries(.value |= (.S // .L))",
                Some(json!({
                    "eventName": "INSERT",
                    "dynamodb": { "NewImage": { "id": "17", "tags": [{ "S": "a" }, { "S": "b" }] } },
                })),
            ),
            (
                "def plain: if .S then .S elif .L then .L | map(plain) else . end; .dynamodb.NewImage | map_values(plain)",
                Some(json!({ "id": "17", "tags": ["a", "b"] })),
            ),
            ("[range(3)], [limit(2; range(10; 0; -1))] | select(length == 2)", Some(json!([10, 9]))),
            ("[paths(type == \"string\")] | length", Some(json!(4))),
            (".eventName as $e | {$e, n: 1}", Some(json!({ "e": "INSERT", "n": 1 }))),
            (
                ". as {eventName: $e} | {(\"x\" + $e): (.nothing? // \"none\")}",
                Some(json!({ "xINSERT": "none" })),
            ),
            ("reduce range(1; 10001) as $i (0; . + $i)", Some(json!(50_005_000))),
            ("first(range(1; 1000; 7) | select(. % 13 == 0))", Some(json!(78))),
            ("last(range(5))", Some(json!(4))),
            ("\"\\(.eventName)-\\(1 + 1)\"", Some(json!("INSERT-2"))),
            ("try error(\"x\") catch .", Some(json!("x"))),
            ("[.[]?] | length", Some(json!(2))),
            ("label $out | 1, break $out", Some(json!(1))),
            ("-(1)", Some(json!(-1))),
            (".eventName | test(\"^INS\")", Some(json!(true))),
            // A tail's place stays one.
            ("0 | until(. == 30000; . + 1)", Some(json!(30_000))),
        ] {
            assert_eq!(of(code, &event), Ok(expected), "{code}");
        }
    }

    #[test]
    fn a_program_that_goes_on_for_ever_fails() {
        for (code, expected) in [
            ("def f: f; f", NotTransformed::TooLong),
            ("[repeat(1)]", NotTransformed::TooLong),
            ("[range(0; infinite)]", NotTransformed::TooLong),
            ("reduce range(1e12) as $i (0; 0)", NotTransformed::TooLong),
            ("reduce repeat(1) as $i ([]; [.])", NotTransformed::TooLong),
            ("def f: try f catch f; f", NotTransformed::TooDeep),
            ("last(repeat(1)) // 1", NotTransformed::TooLong),
            ("(repeat(null)) // 1", NotTransformed::TooLong),
            ("until(false; .)", NotTransformed::TooLong),
            ("[range(2000) as $a | range(2000) as $b | $a]", NotTransformed::TooLong),
            ("[range(2000)] | [.[] + .[]]", NotTransformed::TooLong),
            ("[range(2000)] | [{ a: .[], b: .[] }]", NotTransformed::TooLong),
            ("[range(2000)] | [\"\\(.[])\\(.[])\"]", NotTransformed::TooLong),
            ("isempty(repeat(1) | empty)", NotTransformed::TooLong),
            ("def f: 1 + f; f", NotTransformed::TooDeep),
            ("1, 2", NotTransformed::Several),
            ("1, error", NotTransformed::Several),
            ("reduce range(1000) as $i (0; [.])", NotTransformed::TooLarge),
            ("reduce range(60) as $i (1; [., .])", NotTransformed::TooLarge),
            ("reduce range(23) as $i (\"a\"; . + .)", NotTransformed::TooLarge),
            ("nan", NotTransformed::NoJson),
            ("{ (1 | tostring | tojson): infinite }", NotTransformed::NoJson),
        ] {
            assert_eq!(of(code, &json!({})), Err(expected), "{code}");
        }
        for (code, expected) in [
            ("error(\"no\")", "no"),
            (".a.b", "cannot index"),
            ("now", "asks for the time"),
            ("halt", "asks for the time"),
            ("debug", "asks for the time"),
            ("env", "asks for the time"),
        ] {
            let error = of(code, &json!({ "a": 1 })).expect_err(code).to_string();
            assert!(error.contains(expected), "{code}: {error}");
        }
    }

    #[test]
    fn what_is_no_program_says_where() {
        for (code, expected) in [
            ("", "expected term at the end"),
            (".a |", "expected term at the end"),
            ("{ a: ", "expected"),
            (".a\n| }", "line 2, column 3"),
            ("nothing(1)", "there is no filter \"nothing\""),
            ("$x", "there is no variable \"$x\""),
            ("$ENV", "there is no variable \"$ENV\""),
            ("input", "there is no filter \"input\""),
            ("include \"a\"; .", "expected"),
        ] {
            let error = code.parse::<Transform>().expect_err(code).to_string();
            assert!(error.contains(expected), "{code}: {error}");
        }
    }
}
