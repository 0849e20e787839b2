//! Attempts that are under way when their process ends.

use super::place::{Place, parse};
use super::{all_records, record, totals, wait_until};
use novastack::store::{Filter, Flag, Progress, Store};
use std::sync::{Arc, Mutex};
use std::time::Duration;

on_each_store!(
    what_was_left_under_way_is_recorded_once,
    attempts_that_end_leave_one_record_and_no_note,
    the_notes_of_a_process_that_lives_are_left_alone,
);

fn serve(place: &Place) -> Arc<Store> {
    Store::serve(&parse(&place.url), false).unwrap_or_else(|error| panic!("{error}"))
}

/// Longer than the writer takes to note what is under way.
fn noted() {
    std::thread::sleep(Duration::from_millis(1500));
}

fn progress(output_tokens: u64) -> Progress {
    Progress { input_tokens: 7, cached_tokens: 2, output_tokens, cost: 0.5, ttft_ms: Some(3) }
}

fn what_was_left_under_way_is_recorded_once(place: &Place) {
    let store = serve(place);
    for number in 0..3 {
        let open = store.recorder().open(record(number).into());
        open.update(progress(number));
        // The process ends without another word.
        std::mem::forget(open);
    }
    noted();
    assert_eq!(totals(&store).attempts, 0);
    store.close().expect("closed");
    drop(store);
    let store = serve(place);
    wait_until("the records", || totals(&store).attempts == 3);
    let records = all_records(&store, Filter::default());
    assert!(records.iter().all(|it| it.flag == Some(Flag::Interrupted) && it.estimated), "{records:?}");
    assert_eq!(records.iter().map(|it| it.output_tokens).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((records[0].input_tokens, records[0].cost, records[0].ttft_ms), (7, 0.5, Some(3)));
    assert_eq!((records[0].tags.clone(), records[0].arm.clone()), (record(0).tags, None));
    wait_until("the spending", || store.keys().spent("alice") == 1.5);
    drop(store);
    let store = serve(place);
    noted();
    assert_eq!(totals(&store).attempts, 3);
}

fn attempts_that_end_leave_one_record_and_no_note(place: &Place) {
    let store = serve(place);
    let open: Vec<_> = (0..50).map(|number| store.recorder().open(record(number).into())).collect();
    open.iter().for_each(|it| it.update(progress(1)));
    noted();
    // Some end now, some were never noted.
    let late: Vec<_> = (50..100).map(|number| store.recorder().open(record(number).into())).collect();
    for (number, it) in open.into_iter().chain(late).enumerate() {
        it.close().keep(record(number as u64));
    }
    store.close().expect("written");
    drop(store);
    let store = serve(place);
    std::thread::sleep(Duration::from_secs(if place.schema.is_some() { 14 } else { 1 }));
    let totals = totals(&store);
    assert_eq!((totals.attempts, totals.flagged, totals.output_tokens), (100, 0, 300));
}

fn the_notes_of_a_process_that_lives_are_left_alone(place: &Place) {
    let shared =
        |place: &Place| Store::serve(&parse(&place.url), true).unwrap_or_else(|error| panic!("{error}"));
    let (one, other) = (shared(place), shared(place));
    let told = Arc::<Mutex<Vec<u64>>>::default();
    let tells = told.clone();
    other.on_interrupted(move |record| tells.lock().expect("unpoisoned").push(record.output_tokens));
    let open = one.recorder().open(record(1).into());
    open.update(progress(5));
    // Longer than a silent process is waited for: this one has nothing to say, and lives.
    std::thread::sleep(Duration::from_secs(14));
    assert_eq!(totals(&other).attempts, 0);
    std::mem::forget(open);
    one.close().expect("closed");
    wait_until("the record", || totals(&other).attempts == 1);
    assert_eq!(*told.lock().expect("unpoisoned"), [5]);
    assert_eq!(totals(&other).flagged, 1);
}
