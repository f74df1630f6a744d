//! The command line, wrong configurations, and the demo: what needs no regions of the suite's own.

use assert_cmd::Command;
use serde_json::Value;

fn tradewind(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind"));
    command.args(arguments);
    for name in ["TRADEWIND_CONFIG", "TRADEWIND_CONFIG_TEXT", "TRADEWIND_LISTEN", "RUST_LOG"] {
        command.env_remove(name);
    }
    command
}

const REGIONS: &str = r#"[[region]]
name = "tokyo"
aws_region = "ap-northeast-1"

[[region]]
name = "dublin"
aws_region = "eu-west-1"
"#;
const TABLE: &str = r#"
[[table]]
name = "orders"
"#;

/// What a command says of a configuration, with the place where it points.
fn complaint(config: &str) -> String {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), config).unwrap();
    let path = file.path().to_str().unwrap();
    let run = tradewind(&["run", "--region", "tokyo", "--config", path]).assert().code(64);
    let output = run.get_output();
    assert_eq!(output.stdout, b"");
    // Every command reads the file in the same way.
    for command in ["init", "verify"] {
        let other = tradewind(&[command, "--config", path]).assert().code(64);
        assert_eq!(other.get_output().stderr, output.stderr);
    }
    String::from_utf8(output.stderr.clone()).unwrap().replace(path, "FILE")
}

#[test]
fn wrong_configurations_are_told_with_line_and_column() {
    let both = |rest: &str| format!("{REGIONS}{TABLE}{rest}");
    let with_endpoint = |url: &str| both("").replacen("\n\n", &format!("\nendpoint = \"{url}\"\n\n"), 1);
    let one_place = |rest: &str| {
        let own = "\"ap-northeast-1\"\ncontrol_table = \"other\"";
        both(rest).replace("\"eu-west-1\"", own)
    };
    for (config, place, says) in [
        (both("nam = \"x\"\n"), "FILE:11:1", "unknown field `nam`"),
        (both("conflicts = \"keep\"\n"), "FILE:11:13", "table"),
        (
            both("").replace("\"eu-west-1\"", "\"eu-west-1\"\nconflict_table = \"tradewind-control\""),
            "FILE:6:8",
            "conflict_table",
        ),
        (both("").replace("\"orders\"", "\"tradewind-conflicts\""), "FILE:10:8", "conflict table"),
        (both("[tuning]\npoll = \"1s\"\n"), "FILE:12:1", "unknown field `poll`"),
        (both("[tuning]\npoll_interval = \"soon\"\n"), "FILE:12:", "250ms"),
        (both("[tuning]\nconcurrency = 0\n"), "FILE:11:", "1 to 1024"),
        (
            both("[tuning]\nsettle = \"5s\"\n"),
            "FILE:11:",
            "settle = \"5s\": expected \"30s\" to \"1h\"; a write may be",
        ),
        (both("[tuning]\nstream_retention = \"2days\"\n"), "FILE:11:", "expected \"10m\" to \"1day\""),
        (both("[anti_entropy]\nread_units = 5\n"), "FILE:11:1", "missing field `every`"),
        (both("[anti_entropy]\nevery = \"1d\"\nread_units = 0\n"), "FILE:11:1", "expected 1 or more"),
        (both("[anti_entropy]\nevery = \"1d\"\nrepair = \"some\"\n"), "FILE:13:10", "`older`"),
        (both("").replace("dublin", "tokyo"), "FILE:6:8", "duplicate"),
        (both("").replace("\"dublin\"", "\"Dublin!\""), "FILE:6:8", "a-z"),
        (both("").replace("\"eu-west-1\"", "\"\""), "FILE:7:14", "AWS region"),
        (both("").replace("\"eu-west-1\"", "7"), "FILE:7:14", "string"),
        (both("regions = [\"tokyo\", \"paris\"]\n"), "FILE:11:21", "no region is called"),
        (both("regions = [\"tokyo\"]\n"), "FILE:11:11", "at least two"),
        (both("regions = [\"tokyo\", \"tokyo\"]\n"), "FILE:11:21", "duplicate"),
        (both("names = { paris = \"x\" }\n"), "FILE:11:11", "no region is called"),
        (both("").replace("\"orders\"", "\"or ders\""), "FILE:10:8", "can't name a table"),
        (both("\n[[table]]\nname = \"orders\"\n"), "FILE:13:8", "duplicate"),
        (both("").replace("eu-west-1", "ap-northeast-1"), "FILE:6:8", "are the same place"),
        // Two of one place may be meant, but not as replicas of one table.
        (one_place(""), "FILE:11:8", "duplicate"),
        (one_place("names = { dublin = \"other\" }\n"), "FILE:11:8", "control table of region dublin"),
        // One of one name would be mixed up in the control tables.
        (
            both("names = { tokyo = \"one\", dublin = \"two\" }\n[[table]]\nname = \"orders\"\n"),
            "FILE:13:8",
            "duplicate",
        ),
        (both("pattern = \"shop-*\"\n"), "FILE:11:11", "not both"),
        (both("[[table]]\nregions = [\"tokyo\", \"dublin\"]\n"), "FILE:11:1", "`pattern`"),
        (both("[[table]]\npattern = \"shop\"\n"), "FILE:12:11", "neither '*' nor '?'"),
        (both("[[table]]\npattern = \"\"\n"), "FILE:12:11", "neither '*' nor '?'"),
        (both("[[table]]\npattern = \"sh op*\"\n"), "FILE:12:11", "matches no table"),
        (
            both("[[table]]\npattern = \"shop-*\"\nnames = { tokyo = \"shop\" }\n"),
            "FILE:13:9",
            "the same name in all regions",
        ),
        (both("[[table]]\npattern = \"x*\"\n[[table]]\npattern = \"x*\"\n"), "FILE:14:11", "duplicate"),
        (
            one_place("names = { dublin = \"mine\" }\n[[table]]\npattern = \"x*\"\n"),
            "FILE:14:11",
            "the same place",
        ),
        (REGIONS.to_owned(), "FILE:1:1", "[[table]]"),
        (TABLE.to_owned(), "FILE:1:1", "at least two [[region]]"),
        (with_endpoint("127.0.0.1:8000"), "FILE:4:12", "expected a URL"),
        (with_endpoint("ftp://127.0.0.1"), "FILE:4:12", "expected a URL"),
        (with_endpoint("http://example.com"), "FILE:4:12", "https"),
        (with_endpoint("https://me:secret@example.com"), "FILE:4:12", "credentials"),
        (
            both("[[region]]\nname = \"unused\"\naws_region = \"us-west-2\"\n")
                .replace("name = \"orders\"", "name = \"orders\"\nregions = [\"tokyo\", \"dublin\"]"),
            "FILE:13:8",
            "no table uses",
        ),
        ("[[region]\n".to_owned(), "FILE:1:", "expected"),
    ] {
        let complaint = complaint(&config);
        assert!(complaint.contains(place), "no {place:?} in: {complaint}{config}");
        assert!(complaint.contains(says), "no {says:?} in: {complaint}{config}");
    }
}

#[test]
fn a_missing_configuration_is_told_with_what_to_do() {
    let run = tradewind(&["verify", "--config", "/nonexistent/regions.toml"]).assert().code(64);
    let message = String::from_utf8(run.get_output().stderr.clone()).unwrap();
    assert!(message.contains("/nonexistent/regions.toml") && message.contains("--config"), "{message}");
}

#[test]
fn a_table_that_does_not_exist_is_told_beside_those_that_do() {
    for command in
        [&["verify"][..], &["bootstrap"], &["repair"], &["conflicts", "list"], &["dead-letters", "list"]]
    {
        let run = tradewind(&[command, &["--table", "ordres"]].concat())
            .env("TRADEWIND_CONFIG_TEXT", format!("{REGIONS}{TABLE}"))
            .assert()
            .code(64);
        let message = String::from_utf8(run.get_output().stderr.clone()).unwrap();
        assert!(message.contains("\"ordres\"") && message.contains("orders"), "{command:?}: {message}");
    }
}

#[test]
fn the_environment_may_hold_the_configuration_itself() {
    let say = |arguments: &[&str], text: &str| {
        let run = tradewind(arguments).env("TRADEWIND_CONFIG_TEXT", text).assert().code(64);
        String::from_utf8(run.get_output().stderr.clone()).unwrap()
    };
    // What is wrong in it is told as of a file.
    let message = say(&["verify"], &format!("{REGIONS}{TABLE}nam = \"x\"\n"));
    assert!(message.contains("TRADEWIND_CONFIG_TEXT:11:1: unknown field `nam`"), "{message}");
    // What is right in it is used: the region is looked for in it.
    let message = say(&["run", "--region", "paris", "--listen", "off"], &format!("{REGIONS}{TABLE}"));
    assert!(message.contains("paris") && message.contains("tokyo"), "{message}");
    // Two are one too many.
    let message = say(&["verify", "--config", "other.toml"], &format!("{REGIONS}{TABLE}"));
    assert!(message.contains("other.toml") && message.contains("two configurations"), "{message}");
    // An empty one is none.
    let message = say(&["verify", "--config", "/nonexistent/other.toml"], "");
    assert!(message.contains("can't read /nonexistent/other.toml"), "{message}");
}

/// All commands, those below others too, as the man pages name them: `tradewind-conflicts-list`.
fn commands(arguments: &[&str], name: &str) -> Vec<String> {
    let help = tradewind(&[arguments, &["--help"]].concat()).assert().success();
    let help = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    let listed = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let mut all = vec![name.to_owned()];
    let indented = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    for command in listed.filter(indented).filter_map(|line| line.split_whitespace().next()) {
        if command != "help" {
            all.extend(commands(&[arguments, &[command]].concat(), &format!("{name}-{command}")));
        }
    }
    all
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    tradewind(&["man", directory.path().to_str().unwrap()]).assert().success();
    let commands = commands(&[], "tradewind");
    assert!(commands.len() > 15 && commands.contains(&"tradewind-conflicts-list".to_owned()), "{commands:?}");
    for command in commands {
        let page = std::fs::read_to_string(directory.path().join(format!("{command}.1")));
        let page = page.unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!([".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"].iter().all(|part| page.contains(part)), "{page}");
    }
    let message = tradewind(&["man", "/nonexistent"]).assert().code(64);
    let message = String::from_utf8(message.get_output().stderr.clone()).unwrap();
    assert!(message.contains("/nonexistent"), "{message}");
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = tradewind(&["completions", shell]).assert().success();
        let script = String::from_utf8(script.get_output().stdout.clone()).unwrap();
        assert!(["dead-letters", "max-lag", "create-tables"].iter().all(|word| script.contains(word)));
    }
    // What bash would offer.
    let script = tradewind(&["completions", "bash"]).assert().success();
    let script = String::from_utf8(script.get_output().stdout.clone()).unwrap();
    let ask = "COMP_WORDS=(tradewind dead); COMP_CWORD=1; _tradewind tradewind dead tradewind; \
               echo \"offered ${COMPREPLY[*]}\"";
    let bash = std::process::Command::new("bash").args(["-c", &format!("{script}\n{ask}")]).output();
    let offered = String::from_utf8(bash.unwrap().stdout).unwrap();
    assert!(offered.contains("offered dead-letters"), "{offered}");
}

#[test]
fn the_examples_can_be_used() {
    for (example, regions) in [
        ("regions.toml", 3),
        ("deploy/container/regions.toml", 3),
        ("deploy/kubernetes/tokyo/regions.toml", 2),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(example);
        let config = tradewind::config::Config::load(&path).unwrap();
        assert_eq!((config.regions.len(), config.tables.len()), (regions, 1), "{example}");
    }
}

#[test]
fn no_error_shows_a_secret() {
    let config = format!("{REGIONS}{TABLE}").replacen("\n\n", "\nsecret_access_key = \"wJalr\"\n\n", 1);
    let complaint = complaint(&config);
    assert!(complaint.contains("unknown field `secret_access_key`"), "{complaint}");
    assert!(!complaint.contains("wJalr"), "{complaint}");
}

#[test]
fn a_wrong_command_line_ends_with_64() {
    for arguments in
        [&["sail"][..], &["run"], &["demo", "--regions", "1"], &["verify", "--settle", "soon"], &[]]
    {
        tradewind(arguments).assert().code(64);
    }
}

#[test]
fn help_teaches() {
    for arguments in [&["--help"][..], &["demo", "--help"], &["init", "--help"], &["run", "--help"]] {
        let help = tradewind(arguments).assert().success();
        assert!(help.get_output().stdout.len() > 400);
    }
    let help = tradewind(&["--help"]).assert().success();
    let help = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    assert!(["Exit codes", "demo", "init", "run", "verify"].iter().all(|word| help.contains(word)), "{help}");
    tradewind(&["--version"]).assert().success();
}

#[test]
fn the_demo_converges_and_tells_how() {
    let arguments = ["demo", "--writes", "240", "--rate", "400", "--keys", "12", "--seed", "7"];
    let demo = tradewind(&[&arguments[..], &["--json"]].concat()).assert().success();
    let told: Value = serde_json::from_slice(&demo.get_output().stdout).unwrap();
    assert_eq!(told["regions"].as_array().unwrap().len(), 3, "{told:#}");
    let made: u64 = ["puts", "updates", "put_backs", "deletes", "counts", "swaps"]
        .iter()
        .map(|kind| told["writes"][kind].as_u64().unwrap())
        .sum();
    assert_eq!((made, &told["writes"]["failed"]), (240, &0.into()), "{told:#}");
    assert_eq!((&told["items_differing"], &told["seed"]), (&0.into(), &7.into()), "{told:#}");
    assert_eq!(told["writes"]["rollbacks_seen"], 0, "{told:#}");
    assert!(told["items_compared"].as_u64().unwrap() > 0, "{told:#}");
    assert_eq!(told["lag"].as_array().unwrap().len(), 6, "{told:#}");
    assert!(told["agents"]["conflicts"].as_u64().unwrap() > 0, "{told:#}");
    assert!(told["agent_writes"].as_u64().unwrap() <= 6 * made, "{told:#}");

    let demo = tradewind(&[&arguments[..], &["--regions", "2"]].concat()).assert().success();
    let text = String::from_utf8(demo.get_output().stdout.clone()).unwrap();
    for line in ["0 differing", "--seed 7", "rollbacks seen by an application: 0"] {
        assert!(text.contains(line), "{text}");
    }
}
