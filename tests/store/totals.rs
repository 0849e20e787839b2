//! Totals against sums by hand, and exports.

use super::place::Place;
use super::{all_records, is, record, totals};
use novastack::store::{
    Dimension, ExportFormat, Filter, Flag, Outcome, StoreError, Totals, UsageQuery, UsageRecord, UsageRow,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

on_each_store!(
    exports_are_what_their_formats_say,
    an_export_ends_though_records_go_on_coming,
    questions_with_too_long_answers_are_refused,
);

const DAY_MS: u64 = 86_400_000;

fn dimension_of(dimension: &Dimension, it: &UsageRecord) -> Option<String> {
    match dimension {
        Dimension::Key => Some(it.key.clone()),
        Dimension::Model => Some(it.model.clone()),
        Dimension::Route => Some(it.route.clone()),
        Dimension::Arm => it.arm.clone(),
        Dimension::Task => Some(it.task.clone()),
        Dimension::Day => Some(format!("1970-01-0{}", 1 + it.unix_ms / DAY_MS)),
        Dimension::Provider => it.provider.clone(),
        Dimension::Outcome => Some(it.outcome.as_str().into()),
        Dimension::Flag => it.flag.map(|flag| flag.as_str().into()),
        Dimension::Tag(name) => it.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.clone()),
    }
}

/// The smallest value that at least so many percent are not above.
fn percentile(mut values: Vec<u64>, percent: f64) -> Option<u64> {
    values.sort_unstable();
    let is_enough = |at: &usize| (at + 1) as f64 / values.len() as f64 >= percent / 100.0 - 1e-12;
    (0..values.len()).find(is_enough).map(|at| values[at])
}

fn by_hand(records: &[&UsageRecord]) -> Totals {
    let count = |outcome| records.iter().filter(|it| it.outcome == outcome).count() as u64;
    let sum = |field: fn(&UsageRecord) -> u64| records.iter().map(|it| field(it)).sum();
    let done = records.iter().filter(|it| it.outcome == Outcome::Completed);
    let latencies: Vec<u64> = done.map(|it| it.latency_ms).collect();
    let ttfts: Vec<u64> = records.iter().filter_map(|it| it.ttft_ms).collect();
    Totals {
        requests: records.iter().map(|it| &it.request_id).collect::<BTreeSet<_>>().len() as u64,
        attempts: records.len() as u64,
        errors: count(Outcome::Failed),
        cancelled: count(Outcome::Cancelled),
        estimated: sum(|it| it.estimated.into()),
        flagged: records.iter().filter(|it| it.flag.is_some()).count() as u64,
        input_tokens: sum(|it| it.input_tokens),
        cached_tokens: sum(|it| it.cached_tokens),
        output_tokens: sum(|it| it.output_tokens),
        // Eighths: sums are exact in any order.
        cost: records.iter().map(|it| it.cost).sum(),
        latency_ms_p50: percentile(latencies.clone(), 50.0),
        latency_ms_p95: percentile(latencies, 95.0),
        ttft_ms_p50: percentile(ttfts.clone(), 50.0),
        ttft_ms_p95: percentile(ttfts, 95.0),
    }
}

fn any_record() -> impl Strategy<Value = UsageRecord> {
    let word = |words: &'static [&'static str]| prop::sample::select(words).prop_map(str::to_owned);
    let names = (
        word(&["", "alice", "bob"]),
        word(&["small", "large", "it's; \"odd\""]),
        word(&["auto:3", "small"]),
        word(&["", "chat"]),
        prop::option::of(word(&["spare", "main"])),
        prop::option::of(word(&["a", "b", ""])),
        prop::option::of(word(&["small", "large/b"])),
    );
    let numbers = (0..5 * DAY_MS, 0..30u32, 1..4u32, 0..5000u64, 0..500u64, 0..2000u64, any::<bool>());
    let outcome = prop::sample::select(vec![Outcome::Completed, Outcome::Cancelled, Outcome::Failed]);
    let flag = prop::sample::select(vec![Flag::Bounded, Flag::Interrupted, Flag::Corrected]);
    let rest = (0..80u32, 0..40u64, prop::option::of(0..40u64), outcome, prop::option::weighted(0.2, flag));
    (names, numbers, rest).prop_map(|(names, numbers, (cost, latency_ms, ttft_ms, outcome, flag))| {
        let (key, model, route, task, provider, tag, arm) = names;
        let (unix_ms, request, attempt, input_tokens, cached_tokens, output_tokens, estimated) = numbers;
        UsageRecord {
            unix_ms,
            request_id: format!("r{request}"),
            attempt,
            key,
            route,
            arm,
            model,
            provider,
            task,
            input_tokens,
            cached_tokens,
            output_tokens,
            estimated,
            flag,
            cost: f64::from(cost) / 8.0,
            latency_ms,
            ttft_ms,
            outcome,
            status: 200,
            tags: tag.into_iter().map(|tag| ("it's \"it\".[0]".to_owned(), tag)).collect(),
        }
    })
}

fn any_dimension() -> impl Strategy<Value = Dimension> {
    let tag = Dimension::Tag("it's \"it\".[0]".into());
    prop::sample::select(vec![
        Dimension::Key,
        Dimension::Model,
        Dimension::Route,
        Dimension::Arm,
        Dimension::Task,
        Dimension::Day,
        Dimension::Provider,
        Dimension::Outcome,
        Dimension::Flag,
        tag,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn totals_equal_sums_by_hand(
        given in prop::collection::vec(any_record(), 0..120),
        group_by in prop::collection::vec(any_dimension(), 0..3),
        range in (prop::option::of(0..3 * DAY_MS), prop::option::of(2 * DAY_MS..5 * DAY_MS)),
        equal in prop::option::of((any_dimension(), 0..120usize)),
    ) {
        let value = |dimension: &Dimension, at: usize| {
            given.get(at).and_then(|it| dimension_of(dimension, it)).unwrap_or_default()
        };
        let equal = equal.map(|(dimension, at)| (dimension.clone(), value(&dimension, at)));
        let filter = Filter {
            from_unix_ms: range.0, to_unix_ms: range.1, equal: equal.into_iter().collect(),
        };
        let query = UsageQuery { group_by, filter };
        for place in [Some(Place::sqlite()), Place::postgres()].iter().flatten() {
            check_totals(place, &given, &query)?;
        }
    }
}

fn check_totals(place: &Place, given: &[UsageRecord], query: &UsageQuery) -> Result<(), TestCaseError> {
    let store = place.open();
    given.iter().for_each(|it| store.recorder().record(it.clone()));
    store.close().expect("written");
    let filter = &query.filter;
    let counts = |it: &&UsageRecord| {
        filter.from_unix_ms.is_none_or(|from| it.unix_ms >= from)
            && filter.to_unix_ms.is_none_or(|to| it.unix_ms < to)
            && filter.equal.iter().all(|(d, value)| dimension_of(d, it).unwrap_or_default() == *value)
    };
    let mut groups: BTreeMap<Vec<Option<String>>, Vec<&UsageRecord>> = BTreeMap::new();
    if query.group_by.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    let picked: Vec<&UsageRecord> = given.iter().filter(counts).collect();
    for it in &picked {
        groups.entry(query.group_by.iter().map(|d| dimension_of(d, it)).collect()).or_default().push(it);
    }
    let expected: Vec<UsageRow> =
        groups.into_iter().map(|(group, records)| UsageRow { group, totals: by_hand(&records) }).collect();
    prop_assert_eq!(store.usage(query).expect("totals"), expected);
    let all = all_records(&store, filter.clone());
    prop_assert_eq!(all.iter().collect::<Vec<_>>(), picked);

    let mut spent: BTreeMap<&str, f64> = BTreeMap::new();
    given.iter().for_each(|it| *spent.entry(&it.key).or_default() += it.cost);
    drop(store);
    let keys = place.open().keys();
    for (key, dollars) in spent {
        prop_assert_eq!(keys.spent(key), if key.is_empty() { 0.0 } else { dollars });
    }
    Ok(())
}

fn exports_are_what_their_formats_say(place: &Place) {
    let store = place.open();
    let given = [
        record(1),
        UsageRecord {
            request_id: "a\"b,c\r\nd".into(),
            task: "=HYPERLINK(\"http://x\")".into(),
            model: "@sum".into(),
            provider: None,
            arm: Some("-large/b".into()),
            ttft_ms: None,
            cost: 0.000_000_4,
            tags: vec![("t".into(), "-1, \"2\"".into())],
            ..record(2)
        },
    ];
    given.iter().for_each(|it| store.recorder().record(it.clone()));
    store.close().expect("written");
    let text = |format: ExportFormat| {
        let mut bytes = format.head();
        bytes.extend(format.encode(&all_records(&store, Filter::default())));
        String::from_utf8(bytes).expect("UTF-8")
    };

    let table = text(ExportFormat::Csv);
    assert!(
        table.starts_with("time,request_id,attempt,key,route,model,provider,task,input_tokens,"),
        "{table}"
    );
    assert!(table.contains("\r\n2026-01-01T00:00:00.001Z,r1,1,alice,auto:12,small,spare,chat,10,4,3,false,0.25,120,20,completed,200,\"{\"\"team\"\":\"\"search\"\"}\",,\r\n"), "{table}");
    assert!(table.contains(",\"a\"\"b,c\r\nd\",") && table.ends_with("\r\n"), "{table}");
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let head = reader.headers().expect("a head").clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.expect("a row")).collect();
    let cell = |row: usize, column: &str| {
        rows[row][head.iter().position(|name| name == column).expect("a column")].to_owned()
    };
    assert_eq!(rows.len(), 2);
    assert_eq!(cell(1, "request_id"), "a\"b,c\r\nd");
    assert_eq!((cell(1, "task").as_str(), cell(1, "model").as_str()), ("'=HYPERLINK(\"http://x\")", "'@sum"));
    assert_eq!((cell(1, "cost").as_str(), cell(1, "ttft_ms").as_str()), ("0.0000004", ""));
    assert_eq!((cell(0, "arm").as_str(), cell(1, "arm").as_str()), ("", "'-large/b"));
    assert_eq!(cell(1, "tags"), r#"{"t":"-1, \"2\""}"#);

    let lines = text(ExportFormat::Jsonl);
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["task"], "=HYPERLINK(\"http://x\")");
    assert_eq!((&lines[1]["provider"], &lines[1]["cost"]), (&serde_json::Value::Null, &4e-7.into()));
    assert_eq!((&lines[0]["arm"], &lines[1]["arm"]), (&serde_json::Value::Null, &"-large/b".into()));
    assert_eq!(lines[1]["tags"]["t"], "-1, \"2\"");
}

fn an_export_ends_though_records_go_on_coming(place: &Place) {
    let store = place.open();
    (0..2500).for_each(|number| store.recorder().record(record(number)));
    super::wait_until("the writes", || totals(&store).attempts == 2500);
    let mut records = store.records(Filter::default()).expect("records");
    let mut sizes = Vec::new();
    loop {
        (0..2000).for_each(|number| store.recorder().record(record(number)));
        super::wait_until("the writes", || store.recorder().waiting() == 0);
        sizes.push(records.page().expect("a page").len());
        if sizes.last() == Some(&0) {
            break;
        }
    }
    assert_eq!(sizes, [1000, 1000, 500, 0]);
}

fn questions_with_too_long_answers_are_refused(place: &Place) {
    let store = place.open();
    for number in 0..10_001 {
        store.recorder().record(UsageRecord { task: format!("t{number}"), ..record(number) });
    }
    store.close().expect("written");
    let by_task =
        |equal| UsageQuery { group_by: vec![Dimension::Task], filter: Filter { equal, ..Filter::default() } };
    assert_eq!(store.usage(&by_task(Vec::new())), Err(StoreError::TooManyGroups(10_000)));
    assert_eq!(store.usage(&by_task(vec![is("task", "t7")])).expect("one").len(), 1);
    let nine = vec![Dimension::Key; 9];
    let many = store.usage(&UsageQuery { group_by: nine, filter: Filter::default() });
    assert!(matches!(many, Err(StoreError::Invalid(_))), "{many:?}");
}
