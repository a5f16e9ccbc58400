//! Guards that bite: each is taken out in turn, and every row that it is named for must go red (`docs/matrix.md`). A row that
//! stays green without its guard shows nothing; a guard that no row misses is not needed, or not tested.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use byoa_gateway::domain::guard::{Guard, without};
use byoa_gateway::matrix::row::Play;
use byoa_gateway::matrix::{ROWS, Setting, play};

use crate::failure_paths::{read, setting};

/// A play that takes longer waits for what a guard would have ended.
const PLAY_ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Guards that are taken out at the same time, each on a thread of its own.
const AT_ONCE: usize = 4;

/// Rows that no guard is named for, and why.
const UNGUARDED: [(&str, &str); 23] = [
    ("021", "shows that something is let through: bytes are handed on as they came"),
    ("023", "shows that something is let through: Slack's check of the address"),
    ("025", "shows that something is let through: Meta's check of the address"),
    ("043", "shows that something is let through: what looks like another tenant in a body is only text"),
    ("047", "shows that something is let through: a shared channel"),
    ("052", "nothing reads what a payload says of sessions, agents and orgs, so there is nothing to take out"),
    ("070", "shows that something is let through: kinds of events that we do not know"),
    ("077", "shows that something is let through: the request among two hundred silent connections"),
    ("080", "HTTP/2 is not served, so there is nothing to take out"),
    ("060", "shows that something is let through: what was asked before a set was replaced"),
    ("084", "nothing reads who says that it was forwarded, so there is nothing to take out"),
    ("087", "shown by source mutants: tests/mutants/failures_*.patch"),
    ("088", "shown by source mutants: tests/mutants/quota_*.patch"),
    ("090", "shown by a source mutant: tests/mutants/refusals_capped.patch"),
    ("089", "held twice, before the body is read and where the queue is: with one of them out it is still refused"),
    ("091", "labels are static texts by type, so there is nothing to take out"),
    ("125", "held twice, when the address is declared and when it is dialled: with one of them out it is still refused"),
    ("129", "nothing fetches what a payload names, so there is nothing to take out"),
    ("137", "the order of the outbox is how it is built: it holds the head of each session and nothing else"),
    ("140", "a lock that is held is SQLite's to tell, so there is nothing to take out"),
    ("151", "the policies say so, whose mutants their tables notice"),
    ("152", "nothing that is shown has a secret in it, by type"),
    ("158", "serde escapes every text, so there is nothing to take out"),
];

/// Whether a case is red. One that could not be played shows nothing.
async fn is_red(setting: &Setting, case: &Play) -> bool {
    play(setting, case).await.is_ok_and(|played| !played.wrong.is_empty())
}

/// Whether some case of a row is red without a guard. A play that does not end is red too.
fn goes_red(row: &'static str, guard: Guard) -> bool {
    let play_all = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let red = runtime.block_on(async {
            let setting = setting();
            for case in read(row).plays().unwrap().iter().filter(|case| case.to.provider().is_some()) {
                if tokio::time::timeout(PLAY_ENDS_WITHIN, is_red(&setting, case)).await.unwrap_or(true) {
                    return true;
                }
            }
            false
        });
        runtime.shutdown_background();
        red
    };
    // A guard is out for one thread, and a runtime of one thread stays on it.
    thread::spawn(move || without(guard, play_all)).join().unwrap()
}

/// Takes out, in turn, each guard whose first row is of the dimension.
fn bite(dimension: RangeInclusive<&str>) {
    let guards: Vec<Guard> = Guard::ALL.iter().copied().filter(|g| dimension.contains(&g.rows()[0])).collect();
    assert!(!guards.is_empty(), "no guard is of {dimension:?}");
    let mut survived = Vec::new();
    for some in guards.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let all: Vec<_> = some
                .iter()
                .map(|guard| {
                    scope.spawn(|| {
                        let green = guard.rows().iter().filter(|row| !goes_red(row, *guard));
                        green.map(|row| format!("{}: row {row} stays green", guard.name())).collect::<Vec<_>>()
                    })
                })
                .collect();
            survived.extend(all.into_iter().flat_map(|guard| guard.join().unwrap()));
        });
    }
    assert!(survived.is_empty(), "without their guards:\n{}", survived.join("\n"));
}

macro_rules! dimensions {
    ($($name:ident $first:literal $last:literal)+) => {
        $(#[test]
        fn $name() {
            bite($first..=$last);
        })+

        const DIMENSIONS: &[RangeInclusive<&str>] = &[$($first..=$last),+];
    };
}

dimensions! {
    guards_of_proof "001" "027"
    guards_against_replay "028" "040"
    guards_between_tenants "041" "054"
    guards_by_policy "055" "060"
    guards_of_parsing "061" "072"
    guards_of_the_edge "073" "086"
    guards_of_secrets "092" "100"
    guards_of_sending "101" "112"
    guards_of_the_lifecycle "119" "123"
    guards_of_deliveries "124" "137"
    guards_of_operators "149" "158"
}

#[test]
fn every_guard_is_of_one_dimension_and_has_its_name_alone() {
    let mut names = BTreeSet::new();
    for guard in Guard::ALL {
        let first = guard.rows()[0];
        assert_eq!(DIMENSIONS.iter().filter(|d| d.contains(&first)).count(), 1, "{}: row {first}", guard.name());
        assert!(guard.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", guard.name());
        assert!(names.insert(guard.name()), "{} twice", guard.name());
    }
}

#[test]
fn every_row_has_a_guard_or_a_reason() {
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for guard in Guard::ALL {
        for row in guard.rows() {
            named.entry(row).or_default().push(guard.name());
        }
    }
    let has_provider = |id: &&str| read(id).plays().unwrap().iter().any(|play| play.to.provider().is_some());
    // Rows from 201 on are shown by source mutants (tests/it/mutants.rs).
    let rows: BTreeSet<&str> = ROWS.iter().map(|(id, _)| *id).filter(|id| *id < "201").filter(has_provider).collect();
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| match (named.get(row), UNGUARDED.iter().any(|(id, _)| id == row)) {
            (None, false) => Some(format!("{row}: no guard is named for it")),
            (Some(by), true) => Some(format!("{row}: needless exemption, {by:?} are named for it")),
            _ => None,
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unknown: Vec<&&str> = named.keys().filter(|row| !rows.contains(**row)).collect();
    assert!(unknown.is_empty(), "there are no such rows: {unknown:?}");
    assert!(UNGUARDED.iter().all(|(row, _)| rows.contains(*row)), "an exemption of a row that is not there");
}
