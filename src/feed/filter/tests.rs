use proptest::prelude::*;
use serde_json::json;

use super::decimal::first_rounded;
use super::*;

type Case = (&'static str, &'static str, bool);

fn filter(pattern: &str) -> Filter {
    pattern.parse().expect(pattern)
}

fn check(cases: &[Case]) {
    for (pattern, event, expected) in cases {
        let event_value = serde_json::from_str(event).expect(event);
        assert_eq!(filter(pattern).matches(&event_value), *expected, "{pattern} on {event}");
    }
}

/// A leaf rule against one value of the field `a`.
fn check_values(rules: &str, cases: &[(&str, bool)]) {
    for (value, expected) in cases {
        let event = serde_json::from_str(&format!(r#"{{"a":{value}}}"#)).unwrap();
        let filter = filter(&format!(r#"{{"a":{rules}}}"#));
        assert_eq!(filter.matches(&event), *expected, "{rules} on {value}");
    }
}

fn record() -> Value {
    json!({
        "eventID": "1", "eventName": "MODIFY", "eventSource": "aws:dynamodb", "awsRegion": "eu-west-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_678_831_218.0,
            "Keys": {"id": {"S": "order#7"}},
            "NewImage": {
                "id": {"S": "order#7"}, "status": {"S": "paid"}, "total": {"N": "12.50"}, "gift": {"BOOL": false},
                "note": {"NULL": true}, "tags": {"SS": ["new", "eu"]},
                "lines": {"L": [{"M": {"sku": {"S": "a"}, "n": {"N": "1"}}}, {"M": {"sku": {"S": "b"}}}]}
            },
            "OldImage": {"id": {"S": "order#7"}, "status": {"S": "draft"}},
            "SizeBytes": 26
        }
    })
}

#[test]
fn a_stream_record() {
    let cases = [
        (
            r#"{"eventName":["INSERT","MODIFY"],"dynamodb":{"NewImage":{"status":{"S":[{"anything-but":"draft"}]}}}}"#,
            true,
        ),
        (
            r#"{"eventName":["INSERT"],"dynamodb":{"NewImage":{"status":{"S":[{"anything-but":"draft"}]}}}}"#,
            false,
        ),
        (
            r#"{"eventName":["MODIFY"],"dynamodb":{"NewImage":{"status":{"S":[{"anything-but":"paid"}]}}}}"#,
            false,
        ),
        (r#"{"dynamodb":{"Keys":{"id":{"S":[{"prefix":"order#"}]}}}}"#, true),
        (r#"{"dynamodb":{"Keys":{"id":{"S":[{"prefix":"user#"}]}}}}"#, false),
        (
            r#"{"dynamodb":{"OldImage":{"status":{"S":["draft"]}},"NewImage":{"status":{"S":["paid"]}}}}"#,
            true,
        ),
        (r#"{"dynamodb":{"NewImage":{"total":{"N":["12.50"]}}}}"#, true),
        (r#"{"dynamodb":{"NewImage":{"total":{"N":["12.5"]}}}}"#, false),
        (r#"{"dynamodb":{"NewImage":{"total":{"N":[{"numeric":[">",10]}]}}}}"#, false),
        (r#"{"dynamodb":{"NewImage":{"gift":{"BOOL":[false]}}}}"#, true),
        (r#"{"dynamodb":{"NewImage":{"note":{"NULL":[true]}}}}"#, true),
        (r#"{"dynamodb":{"NewImage":{"tags":{"SS":["eu"]}}}}"#, true),
        (r#"{"dynamodb":{"NewImage":{"tags":{"SS":["us"]}}}}"#, false),
        (r#"{"dynamodb":{"NewImage":{"lines":{"L":{"M":{"sku":{"S":["b"]}}}}}}}"#, true),
        (r#"{"dynamodb":{"NewImage":{"lines":{"L":{"M":{"sku":{"S":["c"]}}}}}}}"#, false),
        (r#"{"dynamodb":{"SizeBytes":[{"numeric":["<",100]}]}}"#, true),
        (r#"{"dynamodb":{"NewImage":{"ttl":{"N":[{"exists":false}]}}}}"#, true),
        (r#"{"userIdentity":{"principalId":["dynamodb.amazonaws.com"]}}"#, false),
        (r#"{"userIdentity":{"principalId":[{"exists":false}]}}"#, true),
        // A whole attribute is an object, so it is no leaf and does not "exist".
        (r#"{"dynamodb":{"NewImage":{"status":[{"exists":true}]}}}"#, false),
        ("{}", true),
    ];
    for (pattern, expected) in cases {
        assert_eq!(filter(pattern).matches(&record()), expected, "{pattern}");
    }
}

#[test]
fn exact_values() {
    check_values(r#"["x"]"#, &[(r#""x""#, true), (r#""X""#, false), (r#""xy""#, false), ("null", false)]);
    check_values(r#"[""]"#, &[(r#""""#, true), ("null", false), (r#"" ""#, false), ("[]", false)]);
    check_values(
        "[null]",
        &[("null", true), (r#""""#, false), ("false", false), ("0", false), ("{}", false)],
    );
    check_values("[true]", &[("true", true), ("false", false), (r#""true""#, false), ("1", false)]);
    check_values("[false]", &[("false", true), ("true", false), ("null", false)]);
    check_values(r#"["x", 1, null]"#, &[(r#""x""#, true), ("1", true), ("null", true), ("2", false)]);
    check_values(r#"["é"]"#, &[(r#""\u00e9""#, true), (r#""e\u0301""#, false)]);
}

#[test]
fn numbers_compare_by_value() {
    check_values(
        "[300]",
        &[("300", true), ("300.0", true), ("3.0e2", true), ("30000E-2", true), ("301", false)],
    );
    check_values("[3.0e2]", &[("300", true), (r#""300""#, false), (r#""3.0e2""#, false)]);
    check_values(
        "[0]",
        &[("0", true), ("-0", true), ("0.0", true), ("-0.0", true), ("0e5", true), ("1e-9", false)],
    );
    check_values("[-1.5]", &[("-1.5", true), ("-15e-1", true), ("1.5", false)]);
    check_values("[0.1]", &[("0.1", true), ("0.10", true), ("0.1000001", false)]);
    check_values(
        "[18446744073709551615]",
        &[("18446744073709551615", true), ("18446744073709551614", false)],
    );
    check_values(
        "[-9223372036854775808]",
        &[("-9223372036854775808", true), ("-9223372036854775807", false)],
    );
}

#[test]
fn prefix_and_suffix() {
    check_values(
        r#"[{"prefix":"ab"}]"#,
        &[(r#""abc""#, true), (r#""ab""#, true), (r#""a""#, false), (r#""AB""#, false)],
    );
    check_values(
        r#"[{"prefix":"1"}]"#,
        &[(r#""12""#, true), ("12", false), ("true", false), ("null", false)],
    );
    check_values(r#"[{"prefix":""}]"#, &[(r#""""#, true), (r#""a""#, true), ("1", false), ("null", false)]);
    check_values(
        r#"[{"suffix":".png"}]"#,
        &[(r#""a.png""#, true), (r#"".png""#, true), (r#""a.png ""#, false), (r#""A.PNG""#, false)],
    );
    check_values(r#"[{"suffix":"2"}]"#, &[(r#""12""#, true), ("12", false), (r#"["1","12"]"#, true)]);
    check_values(
        r#"[{"prefix":{"equals-ignore-case":"eventB"}}]"#,
        &[(r#""EVENTBRIDGE""#, true), (r#""event""#, false), ("1", false)],
    );
    check_values(
        r#"[{"suffix":{"equals-ignore-case":"tBridge"}}]"#,
        &[(r#""EventBridge""#, true), (r#""bridge""#, false)],
    );
}

#[test]
fn equals_ignore_case() {
    check_values(
        r#"[{"equals-ignore-case":"aLiCe"}]"#,
        &[(r#""Alice""#, true), (r#""ALICE""#, true), (r#""alice1""#, false), (r#""alic""#, false)],
    );
    check_values(r#"[{"equals-ignore-case":""}]"#, &[(r#""""#, true), (r#""a""#, false), ("null", false)]);
    check_values(r#"[{"equals-ignore-case":"é1"}]"#, &[(r#""É1""#, true), (r#""e1""#, false)]);
    // Where the case changes the length of the character.
    check_values(
        r#"[{"equals-ignore-case":"straße"}]"#,
        &[(r#""STRASSE""#, true), (r#""Straße""#, true), (r#""strase""#, false)],
    );
    check_values(r#"[{"equals-ignore-case":"Ⱥ"}]"#, &[(r#""ⱥ""#, true), (r#""Ⱥ""#, true)]);
    check_values(
        r#"[{"suffix":{"equals-ignore-case":"ß"}}]"#,
        &[(r#""GROSS""#, true), (r#""groß""#, true), (r#""S""#, false)],
    );
    // The Kelvin sign is a K only in lower case.
    check_values(r#"[{"equals-ignore-case":"k"}]"#, &[(r#""K""#, true), (r#""\u212a""#, false)]);
    check_values(r#"[{"equals-ignore-case":"true"}]"#, &[("true", false), (r#""TRUE""#, true)]);
}

#[test]
fn anything_but() {
    check_values(
        r#"[{"anything-but":"x"}]"#,
        &[(r#""y""#, true), (r#""x""#, false), (r#""X""#, true), ("1", true), ("null", true), ("true", true)],
    );
    check_values(r#"[{"anything-but":""}]"#, &[(r#""y""#, true), (r#""""#, false)]);
    check_values(
        r#"[{"anything-but":["x","y"]}]"#,
        &[(r#""z""#, true), (r#""x""#, false), (r#""y""#, false)],
    );
    check_values(
        r#"[{"anything-but":123}]"#,
        &[("124", true), ("123", false), ("1.23e2", false), (r#""123""#, true)],
    );
    check_values(
        r#"[{"anything-but":[100,200]}]"#,
        &[("300", true), ("100", false), ("200.0", false), ("null", true)],
    );
    check_values(
        r#"[{"anything-but":{"prefix":"a"}}]"#,
        &[(r#""b""#, true), (r#""ab""#, false), ("1", true), ("null", true)],
    );
    check_values(
        r#"[{"anything-but":{"prefix":["a","b"]}}]"#,
        &[(r#""c""#, true), (r#""ab""#, false), (r#""ba""#, false)],
    );
    check_values(r#"[{"anything-but":{"suffix":"a"}}]"#, &[(r#""ab""#, true), (r#""ba""#, false)]);
    check_values(r#"[{"anything-but":{"equals-ignore-case":"a"}}]"#, &[(r#""b""#, true), (r#""A""#, false)]);
    check_values(
        r#"[{"anything-but":{"equals-ignore-case":["a","b"]}}]"#,
        &[(r#""c""#, true), (r#""A""#, false), (r#""B""#, false)],
    );
    // One element that is something else is enough.
    check_values(
        r#"[{"anything-but":"x"}]"#,
        &[(r#"["x","y"]"#, true), (r#"["x","x"]"#, false), ("[]", false), (r#"{"b":"y"}"#, false)],
    );
    check(&[
        (r#"{"a":[{"anything-but":"x"}]}"#, "{}", false),
        (r#"{"a":{"b":[{"anything-but":"x"}]}}"#, r#"{"a":{"c":"y"}}"#, false),
        (r#"{"a":{"b":[{"anything-but":"x"}]}}"#, r#"{"a":"y"}"#, false),
        (r#"{"a":[{"anything-but":"x"},{"exists":false}]}"#, "{}", true),
    ]);
}

#[test]
fn numeric() {
    check_values(
        r#"[{"numeric":["=",100]}]"#,
        &[("100", true), ("1e2", true), ("100.5", false), (r#""100""#, false)],
    );
    check_values(
        r#"[{"numeric":["<",10]}]"#,
        &[("9.99", true), ("10", false), ("-1e300", true), ("null", false)],
    );
    check_values(r#"[{"numeric":["<=",10]}]"#, &[("10.0", true), ("10.01", false)]);
    check_values(r#"[{"numeric":[">",-1]}]"#, &[("-0.5", true), ("0", true), ("-1", false), ("-1.5", false)]);
    check_values(
        r#"[{"numeric":[">=",5e9]}]"#,
        &[("5000000000", true), ("4999999999.9", false), ("1e12", true)],
    );
    check_values(
        r#"[{"numeric":[">",0,"<=",5]}]"#,
        &[("0", false), ("0.001", true), ("5", true), ("5.1", false), ("-3", false)],
    );
    check_values(
        r#"[{"numeric":[">=",-2,"<",-1]}]"#,
        &[("-2", true), ("-1.5", true), ("-1", false), ("-3", false), ("0", false)],
    );
    check_values(
        r#"[{"numeric":["<",0]},{"numeric":[">",9]}]"#,
        &[("-1", true), ("10", true), ("5", false), ("[5,10]", true)],
    );
    check_values(
        r#"[{"numeric":[">",9007199254740992]}]"#,
        &[("9007199254740993", true), ("9007199254740992", false)],
    );
    check_values(
        r#"[{"numeric":["<",1]}]"#,
        &[("true", false), (r#""""#, false), ("[]", false), ("{}", false)],
    );
}

#[test]
fn numeric_strings_only_where_asked_for() {
    let cases = [
        (r#"["=",5]"#, "5", true),
        (r#"["=",5]"#, "5.00", true),
        (r#"["=",5]"#, "0.5e1", true),
        (r#"["=",5]"#, "+5", true),
        (r#"["=",5]"#, "5 ", false),
        (r#"["=",5]"#, "five", false),
        (r#"["=",0]"#, "-0", true),
        (r#"["=",0]"#, "", false),
        (r#"["=",0]"#, ".", false),
        (r#"["=",0]"#, "-", false),
        (r#"["=",0]"#, "0x0", false),
        (r#"["<",1]"#, "NaN", false),
        (r#"[">",1]"#, "Infinity", false),
        (r#"[">",1]"#, "1e", false),
        (r#"[">",1]"#, "1e99999999999999999999", false),
        (r#"[">",1]"#, "1e9223372036854775807", false),
        (r#"[">",1]"#, "1e9223372036854775806", true),
        (r#"["<",1]"#, "0.1e-9223372036854775808", true),
        (r#"["=",1e20]"#, "100000000000000000000", true),
        (r#"["=",1e20]"#, "100000000000000000001", false),
        (r#"[">",1e20]"#, "100000000000000000001", true),
        (r#"[">",1e20]"#, "100000000000000000000", false),
        (r#"["<",1e20]"#, "99999999999999999999.999999999999999999", true),
        (r#"["=",0.1]"#, "0.10000000000000000000000000000000000001", false),
        (r#"[">",-1e20]"#, "-99999999999999999999", true),
        (r#"[">",-1e20]"#, "-100000000000000000001", false),
        (r#"[">",0,"<",1]"#, "1E-130", true),
        (r#"["<",0]"#, "-1E-130", true),
        (r#"[">",9.9e125]"#, "9.9999999999999999999999999999999999999E+125", true),
    ];
    for (rule, text, expected) in cases {
        let filter = filter(&format!(r#"{{"N":[{{"numeric":{rule}}}]}}"#));
        let event = json!({"N": text});
        assert!(!filter.matches(&event), "{rule} on {text}, as Lambda has it");
        assert_eq!(filter.numeric_strings().matches(&event), expected, "{rule} on {text}");
    }
}

#[test]
fn numeric_strings_leave_other_rules_alone() {
    let event = json!({"a": {"N": "5"}});
    let matches =
        |rule: &str| filter(&format!(r#"{{"a":{{"N":[{rule}]}}}}"#)).numeric_strings().matches(&event);
    assert!(!matches("5"));
    assert!(matches(r#"{"anything-but":5}"#));
    assert!(matches(r#""5""#));
    assert!(!matches(r#""5.0""#));
    assert!(matches(r#"{"numeric":["<=",5]}"#));
    let pattern = r#"{"a":{"NS":[{"numeric":[">",9]}]}}"#;
    assert!(filter(pattern).numeric_strings().matches(&json!({"a": {"NS": ["1", "10"]}})));
    assert!(filter(pattern).numeric_strings().matches(&json!({"a": {"NS": [1, 10]}})));
}

#[test]
fn exists() {
    let values = [("1", true), ("null", true), (r#""""#, true), ("[1]", true), ("[]", false), ("{}", false)];
    let objects =
        [(r#"{"b":1}"#, false), (r#"[{"b":1}]"#, false), (r#"[{"b":1},2]"#, true), ("[[[]]]", false)];
    for (value, exists) in values.into_iter().chain(objects) {
        check_values(r#"[{"exists":true}]"#, &[(value, exists)]);
        check_values(r#"[{"exists":false}]"#, &[(value, !exists)]);
    }
    check(&[
        (r#"{"a":[{"exists":true}]}"#, "{}", false),
        (r#"{"a":[{"exists":false}]}"#, "{}", true),
        (r#"{"a":{"b":{"c":[{"exists":false}]}}}"#, "{}", true),
        (r#"{"a":{"b":{"c":[{"exists":false}]}}}"#, r#"{"a":1}"#, true),
        (r#"{"a":{"b":{"c":[{"exists":false}]}}}"#, r#"{"a":{"b":null}}"#, true),
        (r#"{"a":{"b":{"c":[{"exists":false}]}}}"#, r#"{"a":{"b":{"c":null}}}"#, false),
        (r#"{"a":[{"exists":false}],"b":[1]}"#, r#"{"b":1}"#, true),
        (r#"{"a":[{"exists":false}],"b":[1]}"#, "{}", false),
        (r#"{"a":[{"exists":false},"x"]}"#, r#"{"a":"x"}"#, true),
        (r#"{"a":[{"exists":false},"x"]}"#, r#"{"a":"y"}"#, false),
    ]);
}

#[test]
fn arrays_in_the_event() {
    check_values(
        r#"["x"]"#,
        &[(r#"["y","x"]"#, true), (r#"["y"]"#, false), (r#"[["y",["x"]]]"#, true), ("[]", false)],
    );
    check_values("[null]", &[("[null]", true), ("[]", false), ("[[]]", false)]);
    let people = r#"{"p":[{"f":"Anna","l":"Smith"},{"f":"Peter","l":"Jones","x":1}]}"#;
    let nested = r#"{"p":[[{"f":"Anna"}],[{"f":"Peter","l":"Jones"}]]}"#;
    check(&[
        (r#"{"p":{"f":["Anna"]}}"#, people, true),
        (r#"{"p":{"f":["Anna"],"l":["Smith"]}}"#, people, true),
        // The fields have to match within one element.
        (r#"{"p":{"f":["Anna"],"l":["Jones"]}}"#, people, false),
        (r#"{"p":{"f":["Peter"]}}"#, nested, true),
        (r#"{"p":{"f":["Anna"],"l":[{"exists":false}]}}"#, nested, true),
        (r#"{"p":{"f":["Anna"],"x":[{"exists":false}]}}"#, people, true),
        (r#"{"p":{"f":["Peter"],"x":[{"exists":false}]}}"#, people, false),
        // Alone, absence is that of the field in the whole array.
        (r#"{"p":{"x":[{"exists":false}]}}"#, people, false),
        (r#"{"p":{"y":[{"exists":false}]}}"#, people, true),
        (r#"{"p":{"y":[{"exists":false}]}}"#, r#"{"p":[]}"#, true),
        (r#"{"p":{"f":["Anna"]}}"#, r#"{"p":["Anna"]}"#, false),
        (r#"{"p":["Anna"]}"#, people, false),
    ]);
}

#[test]
fn or_beside_other_fields() {
    let or = r#"{"s":["x"],"$or":[{"a":[1],"b":[2]},{"c":[{"numeric":[">",3]}]}]}"#;
    let nested = r#"{"d":{"$or":[{"a":[1]},{"$or":[{"b":[2]},{"c":[3]}],"e":[4]}]}}"#;
    let missing = r#"{"$or":[{"a":[{"exists":false}]},{"a":["x"]}]}"#;
    let within_array = r#"{"l":{"$or":[{"a":[1]},{"b":[2]}],"c":[3]}}"#;
    check(&[
        (or, r#"{"s":"x","a":1,"b":2}"#, true),
        (or, r#"{"s":"x","a":1}"#, false),
        (or, r#"{"s":"x","c":4}"#, true),
        (or, r#"{"s":"x","a":1,"c":4}"#, true),
        (or, r#"{"s":"y","c":4}"#, false),
        (or, r#"{"s":"x"}"#, false),
        (or, r#"{"s":"x","$or":[{"c":4}]}"#, false),
        (nested, r#"{"d":{"a":1}}"#, true),
        (nested, r#"{"d":{"b":2,"e":4}}"#, true),
        (nested, r#"{"d":{"c":3,"e":4}}"#, true),
        (nested, r#"{"d":{"c":3}}"#, false),
        (nested, "{}", false),
        // A field both beside and inside has to match both.
        (r#"{"a":[{"prefix":"x"}],"$or":[{"a":["xy"]},{"b":[1]}]}"#, r#"{"a":"xy"}"#, true),
        (r#"{"a":[{"prefix":"x"}],"$or":[{"a":["xy"]},{"b":[1]}]}"#, r#"{"a":"xz"}"#, false),
        (missing, "{}", true),
        (missing, r#"{"a":"x"}"#, true),
        (missing, r#"{"a":"y"}"#, false),
        (within_array, r#"{"l":[{"a":1},{"b":2,"c":3}]}"#, true),
        (within_array, r#"{"l":[{"a":1},{"c":3}]}"#, false),
    ]);
}

#[test]
fn fields() {
    check(&[
        ("{}", "{}", true),
        (" {} ", r#"{"a":1}"#, true),
        (r#"{"a":[1],"b":[2]}"#, r#"{"a":1,"b":2,"c":3}"#, true),
        (r#"{"a":[1],"b":[2]}"#, r#"{"a":1,"b":3}"#, false),
        (r#"{"a":[1],"b":[2]}"#, r#"{"a":1}"#, false),
        (r#"{"a.b":[1]}"#, r#"{"a.b":1}"#, true),
        (r#"{"":[1]}"#, r#"{"":1}"#, true),
        // An operator's name is a field's name where a field is expected.
        (r#"{"exists":[true]}"#, r#"{"exists":true}"#, true),
        (r#"{"a":{"prefix":["x"]}}"#, r#"{"a":{"prefix":"x"}}"#, true),
        // The last of two equal names counts, as in event-ruler.
        (r#"{"a":[1],"a":[2]}"#, r#"{"a":2}"#, true),
        (r#"{"a":[1],"a":[2]}"#, r#"{"a":1}"#, false),
        (r#"{"a":[1]}"#, "[]", false),
        (r#"{"a":[1]}"#, r#""a""#, false),
    ]);
}

#[test]
fn an_event_may_nest_deeper_than_the_stack() {
    let mut value = json!("x");
    for _ in 0..200_000 {
        value = Value::Array(vec![value]);
    }
    let map = Map::from_iter([("a".to_owned(), value)]);
    let event = Value::Object(map);
    assert!(filter(r#"{"a":["x"]}"#).matches(&event));
    assert!(!filter(r#"{"a":{"b":["x"]}}"#).matches(&event));
    // Dropping it recurses.
    std::mem::forget(event);
}

#[test]
fn the_text_is_kept() {
    let text = "{ \"a\" : [ 1.0 ] }";
    assert_eq!(filter(text).to_string(), text);
    assert_eq!(filter(text), filter(text));
    assert_ne!(filter(text), filter(text).numeric_strings());
}

#[test]
fn bad_patterns() {
    let operators = "use one of prefix, suffix, equals-ignore-case, anything-but, numeric, exists";
    let help = r#"write {"numeric": ["=", 5]} or {"numeric": [">", 0, "<=", 5]}"#;
    let alike = r#"`a[0]` needs strings only or numbers only; write {"anything-but": "a"} or {"anything-but": [1, 2]}"#;
    let not_empty = |name: &str| {
        format!(
            r#"`a[0]` needs a string that is not empty, or a list of such; write {{"anything-but": {{"{name}": "text"}}}}"#
        )
    };
    let cases = [
        ("", "the pattern is empty; write {} to match every event".to_owned()),
        (" \n", "the pattern is empty; write {} to match every event".to_owned()),
        ("{'a': [1]}", r#"the pattern is not JSON: key must be a string at line 1 column 2; write an object such as {"eventName": ["INSERT"]}"#.to_owned()),
        ("{} {}", r#"the pattern is not JSON: trailing characters at line 1 column 4; write an object such as {"eventName": ["INSERT"]}"#.to_owned()),
        (r#"["INSERT"]"#, r#"the pattern is not an object; write one such as {"eventName": ["INSERT"]}"#.to_owned()),
        (r#""{\"a\":[1]}""#, "the pattern is a quoted string; take away the outer quotes and the backslashes".to_owned()),
        (r#"{"Filters":[{"Pattern":"{}"}]}"#, "`Filters[0]` is in a whole FilterCriteria; give the text of one Pattern, without quotes around it and without backslashes".to_owned()),
        (r#"{"a":"x"}"#, r#"`a` is not an array; put the value into an array: ["x"]"#.to_owned()),
        (r#"{"dynamodb":{"NewImage":{"n":{"N":5}}}}"#, "`dynamodb.NewImage.n.N` is not an array; put the value into an array: [5]".to_owned()),
        (r#"{"a":null}"#, "`a` is not an array; put the value into an array: [null]".to_owned()),
        (r#"{"a":{"prefix":"x"}}"#, r#"`a.prefix` is an operator outside an array; put it into the array of its field: [{"prefix": "x"}]"#.to_owned()),
        (r#"{"a":{"exists":true}}"#, r#"`a.exists` is an operator outside an array; put it into the array of its field: [{"exists": true}]"#.to_owned()),
        (r#"{"a":[]}"#, r#"`a` is an empty array, which nothing matches; list a value, such as [""] or [null]"#.to_owned()),
        (r#"{"a":{}}"#, "`a` is an empty object; name a field in it, or leave it out".to_owned()),
        (r#"{"a":[["x"]]}"#, "`a[0]` is an array in an array; list its values directly".to_owned()),
        (r#"{"a":[1,{}]}"#, format!("`a[1]` needs exactly one operator; {operators}")),
        (r#"{"a":[{"prefix":"x","suffix":"y"}]}"#, format!("`a[0]` needs exactly one operator; {operators}")),
        (r#"{"dynamodb":{"NewImage":{"status":{"S":[{"wildcard":"x*"}]}}}}"#, "`dynamodb.NewImage.status.S[0]` uses `wildcard`, which Lambda's filters lack; use prefix or suffix".to_owned()),
        (r#"{"a":[{"cidr":"10.0.0.0/24"}]}"#, "`a[0]` uses `cidr`, which Lambda's filters lack; use prefix or suffix".to_owned()),
        (r#"{"a":[{"begins-with":"x"}]}"#, format!("`a[0]` has no known operator: `begins-with`; {operators}")),
        (r#"{"a":[{"prefix":1}]}"#, r#"`a[0]` needs a string; write {"prefix": "text"} or {"prefix": {"equals-ignore-case": "text"}}"#.to_owned()),
        (r#"{"a":[{"suffix":["x"]}]}"#, r#"`a[0]` needs a string; write {"suffix": "text"} or {"suffix": {"equals-ignore-case": "text"}}"#.to_owned()),
        (r#"{"a":[{"prefix":{"suffix":"x"}}]}"#, r#"`a[0]` needs a string; write {"prefix": "text"} or {"prefix": {"equals-ignore-case": "text"}}"#.to_owned()),
        (r#"{"a":[{"equals-ignore-case":1}]}"#, r#"`a[0]` needs a string; write {"equals-ignore-case": "text"}"#.to_owned()),
        (r#"{"a":[{"exists":"true"}]}"#, r#"`a[0]` needs true or false; write {"exists": true}"#.to_owned()),
        (r#"{"a":[{"anything-but":null}]}"#, alike.to_owned()),
        (r#"{"a":[{"anything-but":true}]}"#, alike.to_owned()),
        (r#"{"a":[{"anything-but":[]}]}"#, alike.to_owned()),
        (r#"{"a":[{"anything-but":["x",1]}]}"#, alike.to_owned()),
        (r#"{"a":[{"anything-but":[{"equals-ignore-case":"x"}]}]}"#, alike.to_owned()),
        (r#"{"a":[{"anything-but":{"wildcard":"*"}}]}"#, "`a[0]` has anything-but with `wildcard`; use prefix, suffix or equals-ignore-case".to_owned()),
        (r#"{"a":[{"anything-but":{"prefix":""}}]}"#, not_empty("prefix")),
        (r#"{"a":[{"anything-but":{"suffix":["a",""]}}]}"#, not_empty("suffix")),
        (r#"{"a":[{"anything-but":{"prefix":[]}}]}"#, not_empty("prefix")),
        (r#"{"a":[{"anything-but":{"equals-ignore-case":1}}]}"#, not_empty("equals-ignore-case")),
        (r#"{"a":[{"numeric":5}]}"#, format!("`a[0]` needs comparisons with numbers; {help}")),
        (r#"{"a":[{"numeric":[]}]}"#, format!("`a[0]` needs one comparison, or a lower and then an upper bound; {help}")),
        (r#"{"a":[{"numeric":["="]}]}"#, format!("`a[0]` needs comparisons with numbers; {help}")),
        (r#"{"a":[{"numeric":["=","5"]}]}"#, format!("`a[0]` needs comparisons with numbers; {help}")),
        (r#"{"a":[{"numeric":["!=",5]}]}"#, format!("`a[0]` has no known comparison: `!=`; {help}")),
        (r#"{"a":[{"numeric":["<",5,">",1]}]}"#, format!("`a[0]` needs one comparison, or a lower and then an upper bound; {help}")),
        (r#"{"a":[{"numeric":["=",5,"<",9]}]}"#, format!("`a[0]` needs one comparison, or a lower and then an upper bound; {help}")),
        (r#"{"a":[{"numeric":[">",1,"<",5,"<",9]}]}"#, format!("`a[0]` needs one comparison, or a lower and then an upper bound; {help}")),
        (r#"{"a":[{"numeric":[">",5,"<",1]}]}"#, r#"`a[0]` has a range whose first number is not less than its second; swap them, or use "=""#.to_owned()),
        (r#"{"a":[{"numeric":[">=",5,"<=",5.0]}]}"#, r#"`a[0]` has a range whose first number is not less than its second; swap them, or use "=""#.to_owned()),
        (r#"{"a":["1e5",100000000000000000001]}"#, "the pattern has the number 100000000000000000001, which is more precise than a double; write fewer digits, or a string".to_owned()),
        (r#"{"$or":{"a":[1]}}"#, "`$or` is not an array of two objects or more; write [{…}, {…}]".to_owned()),
        (r#"{"d":{"$or":[{"a":[1]}]}}"#, "`d.$or` is not an array of two objects or more; write [{…}, {…}]".to_owned()),
        (r#"{"$or":[{"a":[1]},"b"]}"#, r#"`$or[1]` is not an object; write one such as {"field": ["value"]}"#.to_owned()),
        (r#"{"$or":[{"a":[1]},{}]}"#, "`$or[1]` is an empty object; name a field in it, or leave it out".to_owned()),
        (r#"{"$or":[{"a":[1]},{"b":{"c":2}}]}"#, "`$or[1].b.c` is not an array; put the value into an array: [2]".to_owned()),
        (r#"{"$or":[{"a":[1]},{"prefix":["b"]}]}"#, r#"`$or[1].prefix` is an operator, which $or does not take as a field; put it into the array of a field: "field": [{"prefix": …}]"#.to_owned()),
        (r#"{"a\nb":1}"#, r"`a\nb` is not an array; put the value into an array: [1]".to_owned()),
    ];
    for (pattern, message) in cases {
        let error = pattern.parse::<Filter>().expect_err(pattern);
        assert_eq!(error.to_string(), message, "{pattern}");
    }
}

#[test]
fn size_and_depth_have_limits() {
    let long = |length: usize| format!(r#"{{"a":["{}"]}}"#, "é".repeat(length - 10));
    assert!(long(4096).parse::<Filter>().is_ok());
    let error = long(4097).parse::<Filter>().unwrap_err().to_string();
    assert_eq!(error, "the pattern has 4097 characters; write at most 4096");

    let deep = |depth: usize| format!("{}[1]{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    assert!(deep(73).parse::<Filter>().is_ok());
    let error = deep(74).parse::<Filter>().unwrap_err().to_string();
    assert!(error.ends_with("is too deep; write at most 72 levels"), "{error}");
    assert!(deep(500).parse::<Filter>().is_err());
    // The deepest attribute DynamoDB stores.
    let attribute = format!("{}{{\"S\":[1]}}{}", r#"{"m":{"M":"#.repeat(32), "}}".repeat(32));
    assert!(format!(r#"{{"dynamodb":{{"NewImage":{attribute}}}}}"#).parse::<Filter>().is_ok());
    let error = format!(r#"{{"a":"{}"}}"#, "é".repeat(500)).parse::<Filter>().unwrap_err().to_string();
    assert!(error.ends_with(&format!("[\"{}…]", "é".repeat(59))), "{error}");
}

#[test]
fn rounded_numbers_are_found() {
    assert_eq!(first_rounded(r#"{"1e999":[1.5,-2e-3,true,"\"9e999"]}"#), None);
    assert_eq!(first_rounded("[0.1,1.00,-0.0,1E+2,18446744073709551615]"), None);
    assert_eq!(first_rounded("[1,18446744073709551617]"), Some("18446744073709551617"));
    assert_eq!(first_rounded("[0.12345678901234567890]"), Some("0.12345678901234567890"));
    assert_eq!(first_rounded("[1e-400]"), Some("1e-400"));
}

/// A scalar for patterns and events, with enough collisions to match now and then.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        (-3_i32..3).prop_map(|n| Value::from(f64::from(n) / 2.0)),
        "[abA]{0,2}".prop_map(Value::from),
    ]
}

fn event() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// JSON out of the words that mean something in a pattern.
fn pattern() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        "[a-c]",
        prop::sample::select(vec![
            "$or",
            "prefix",
            "suffix",
            "equals-ignore-case",
            "anything-but",
            "numeric",
            "exists"
        ])
        .prop_map(str::to_owned),
    ];
    let symbol = prop::sample::select(vec!["=", "<", "<=", ">", ">="]).prop_map(Value::from);
    prop_oneof![scalar(), symbol].prop_recursive(5, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn decimal(text: &str) -> Decimal {
    Decimal::parse(text).unwrap()
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = text.parse::<Filter>();
        let _ = Decimal::parse(&text);
        let _ = first_rounded(&text);
    }

    #[test]
    fn no_text_like_json_panics(text in r#"[\[\]{}:,"\\0-9eE+\-. a$ortuefalsn]{0,60}"#) {
        let _ = text.parse::<Filter>();
        let _ = Decimal::parse(&text);
        let _ = first_rounded(&text);
    }

    #[test]
    fn no_pattern_or_event_panics(pattern in pattern(), event in event()) {
        let text = pattern.to_string();
        if let Ok(filter) = text.parse::<Filter>() {
            prop_assert_eq!(filter.to_string(), text);
            filter.matches(&event);
            filter.numeric_strings().matches(&event);
        }
    }

    #[test]
    fn a_value_matches_itself_and_not_what_is_anything_but(value in scalar(), other in scalar()) {
        let event = json!({"a": value});
        let itself = filter(&json!({"a": [value]}).to_string()).matches(&event);
        prop_assert!(itself);
        if other.is_string() || other.is_number() {
            let same = filter(&json!({"a": [other]}).to_string()).matches(&event);
            let not = filter(&json!({"a": [{"anything-but": other}]}).to_string()).matches(&event);
            prop_assert_ne!(same, not);
        }
    }

    #[test]
    fn strings_match_as_in_std(value in "[a-cA-C]{0,6}", part in "[a-cA-C]{0,2}") {
        let event = json!({"a": value});
        let matches = |rule: Value| filter(&json!({"a": [rule]}).to_string()).matches(&event);
        let (lower, lower_part) = (value.to_lowercase(), part.to_lowercase());
        prop_assert_eq!(matches(json!({"prefix": part})), value.starts_with(&part));
        prop_assert_eq!(matches(json!({"suffix": part})), value.ends_with(&part));
        prop_assert_eq!(matches(json!({"equals-ignore-case": part})), lower == lower_part);
        prop_assert_eq!(matches(json!({"prefix": {"equals-ignore-case": part}})), lower.starts_with(&lower_part));
        prop_assert_eq!(matches(json!({"suffix": {"equals-ignore-case": part}})), lower.ends_with(&lower_part));
    }

    #[test]
    fn decimals_order_like_integers(a in any::<i128>(), b in any::<i128>()) {
        prop_assert_eq!(decimal(&a.to_string()).compare(&decimal(&b.to_string())), a.cmp(&b));
        prop_assert_eq!(decimal(&format!("{a}.000e-5")).compare(&decimal(&format!("{b}0E-6"))), a.cmp(&b));
    }

    #[test]
    fn decimals_order_like_doubles(a in any::<f64>(), b in any::<f64>()) {
        prop_assume!(a.is_finite() && b.is_finite());
        prop_assert_eq!(Some(decimal(&format!("{a:e}")).compare(&decimal(&format!("{b}")))), a.partial_cmp(&b));
    }
}
