//! Every attribute type, and every kind of key, arrives bit for bit.

use aws_sdk_dynamodb::types::{AttributeValue as Value, ScalarAttributeType};
use tradewind::protocol::Item;

use crate::items::{b, exact, item, key, n, s};
use crate::world::{Keys, PLAIN, World};

fn texts(set: &[&str]) -> Vec<String> {
    set.iter().map(|&text| text.to_owned()).collect()
}

fn every_type() -> Item {
    let nested = Value::M(item([
        ("list", Value::L(vec![n("1.50"), s(""), Value::Null(true), Value::L(vec![]), Value::M(item([]))])),
        ("deep", Value::M(item([("deeper", Value::M(item([("deepest", b(&[0, 255]))])))]))),
    ]));
    item([
        ("pk", s("a")),
        ("digits", n("12345678901234567890123456789012345678")),
        ("negative digits", n("-9999999999999999999999999999999999999.9")),
        ("largest", n("9.9999999999999999999999999999999999999E+125")),
        ("smallest", n("1E-130")),
        ("smallest negative", n("-1E-130")),
        ("zero", n("0")),
        ("minus zero", n("-0.0")),
        ("trailing zeros", n("100.00")),
        ("fraction", n("0.000000000000000000000000000000000000012345678901234567")),
        ("binary", b(&(0..=255).collect::<Vec<u8>>())),
        ("empty binary", b(&[])),
        ("empty text", s("")),
        ("text", s("naïve 東京 \u{1F30D} \u{0}\u{1F}\u{7F}\u{2028} \"\\/ e\u{301}")),
        ("yes", Value::Bool(true)),
        ("no", Value::Bool(false)),
        ("null", Value::Null(true)),
        ("texts", Value::Ss(texts(&["z", "a", "é", "\u{1F30D}"]))),
        ("numbers", Value::Ns(texts(&["10", "-1", "1.5E+20", "0.001"]))),
        (
            "binaries",
            Value::Bs([&b"z"[..], b"a", b"\0"].map(aws_sdk_dynamodb::primitives::Blob::new).to_vec()),
        ),
        ("empty list", Value::L(vec![])),
        ("empty map", Value::M(item([]))),
        ("nested", nested),
        ("naïve 名前 .:#", s("an attribute's name")),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attribute_type_arrives_bit_for_bit() {
    let world = World::running(3).await;
    world.put(0, every_type()).await;
    // As the origin's own service stores it: it may spell a number in another way.
    let stored = world.get(0, &key("a")).await.unwrap();
    assert_eq!(stored.len(), every_type().len());
    for peer in [1, 2] {
        world.await_item(peer, &key("a"), &stored).await;
    }
    world.converged().await;
    world.still_quiet().await;
    let total = world.total();
    assert_eq!((total.local_puts, total.echoes, total.agent_writes()), (1, 2, 2), "{total:?}");

    // An update of one attribute at a peer leaves all others as they were.
    world.update(1, key("a"), "zero", s("changed")).await;
    let mut changed = stored;
    changed.insert("zero".to_owned(), s("changed"));
    for region in world.regions() {
        world.await_item(region, &key("a"), &changed).await;
    }
    world.converged().await;
    assert_eq!(world.total().local_puts, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_type_is_recognised_in_its_echo_alone() {
    let world = World::running(2).await;
    let mut expected = 0;
    for (name, value) in every_type() {
        if name != "pk" {
            world.put(expected % 2, item([("pk", s(&name)), ("value", value)])).await;
            expected += 1;
        }
    }
    assert_eq!(world.converged().await.len(), expected);
    world.still_quiet().await;
    let total = world.total();
    let expected = u64::try_from(expected).unwrap();
    assert_eq!((total.local_puts, total.echoes, total.heals), (expected, expected, 0), "{total:?}");
}

async fn keys_of(keys: Keys, items: Vec<Item>) {
    let mut world = World::prepared(2, keys).await;
    world.start_agents().await;
    for item in &items {
        world.put(0, item.clone()).await;
    }
    assert_eq!(world.converged().await.len(), items.len());
    for item in &items {
        world.update(1, world.key_of(item), "v", s("updated")).await;
    }
    let contents = world.converged().await;
    assert_eq!(contents.len(), items.len());
    for item in &items {
        let mut updated = item.clone();
        updated.insert("v".to_owned(), s("updated"));
        world.await_item(0, &world.key_of(item), &updated).await;
        assert_eq!(contents[&exact(&world.key_of(item))], exact(&updated));
    }
    for item in &items {
        world.delete(0, world.key_of(item)).await;
    }
    assert_eq!(world.converged().await.len(), 0);
    let total = world.total();
    assert_eq!(total.local_puts + total.local_deletes, 3 * u64::try_from(items.len()).unwrap(), "{total:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_text_and_a_number() {
    let keys: Keys = &[("customer", ScalarAttributeType::S), ("order", ScalarAttributeType::N)];
    let of = |customer: &str, order: &str| item([("customer", s(customer)), ("order", n(order))]);
    keys_of(
        keys,
        vec![
            of("a", "1"),
            of("a", "2"),
            of("b", "1"),
            of("a", "-0.5"),
            of("b", "1000000000000000000000000000000"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_two_binaries() {
    let keys: Keys = &[("one", ScalarAttributeType::B), ("two", ScalarAttributeType::B)];
    let of = |one: &[u8], two: &[u8]| item([("one", b(one)), ("two", b(two))]);
    keys_of(keys, vec![of(&[0], &[255, 0]), of(&[0], &[255]), of(&[0, 255], &[0]), of(b"text", b"=+/")])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_look_alike() {
    let of = |pk: &str| item([("pk", s(pk))]);
    keys_of(PLAIN, vec![of("é"), of("e\u{301}"), of(" a"), of("a "), of("A"), of("a"), of("tw1 ")]).await;
}
