//! docs/api.md says what works with what, and which test shows it: each of these is there.

use std::path::{Path, PathBuf};

/// The rows of the table of features: their cells.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let (_, rest) = text.split_once("<!-- features -->\n").expect("where the table begins");
    let (table, _) = rest.split_once("<!-- /features -->").expect("where it ends");
    let rows = table.lines().skip(2).map(|line| {
        let line = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")).expect("a row");
        line.split('|').map(str::trim).collect()
    });
    rows.collect()
}

/// Whether there is a test of that name: `tests/sdk/FILE.py::NAME`, or a path of modules to a function, in the
/// integration tests or in the library's own.
fn exists(root: &Path, name: &str) -> Result<(), String> {
    let (place, test) = name.rsplit_once("::").ok_or("no path")?;
    if place.ends_with(".py") {
        let text = std::fs::read_to_string(root.join(place)).map_err(|error| error.to_string())?;
        let is_there = text.lines().any(|line| line.starts_with(&format!("def {test}(")));
        return if is_there { Ok(()) } else { Err(format!("{place} has no {test}")) };
    }
    let modules: Vec<&str> = place.split("::").collect();
    for (base, of) in [("tests", &modules[..]), ("src", &modules[..])] {
        // The last modules may stand within a file.
        for within in 0..of.len() {
            let (outer, inner) = of.split_at(of.len() - within);
            let path = root.join(base).join(outer.iter().collect::<PathBuf>());
            for file in [path.with_extension("rs"), path.join("mod.rs")] {
                let Ok(text) = std::fs::read_to_string(&file) else { continue };
                let has_modules = inner.iter().all(|module| text.contains(&format!("mod {module} {{")));
                if has_modules && has_test(&text, test) {
                    return Ok(());
                }
            }
        }
    }
    Err(format!("there is no such test in tests/ or src/ at {place}"))
}

/// Whether a function is there whose attribute says that it is a test.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |line: &str| line.trim_start_matches("async ").starts_with(&format!("fn {name}("));
    let found = lines.iter().position(|line| is_it(line));
    found.is_some_and(|at| {
        let before = lines[..at].iter().rev().take_while(|line| !line.is_empty() && !line.starts_with('}'));
        before.clone().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_feature_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/api.md")).expect("docs/api.md");
    let rows = rows(&text);
    assert!(rows.len() >= 20, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for cells in rows {
        assert_eq!(cells.len(), 9, "{cells:?}");
        let (feature, shown_by) = (cells[0], cells[8]);
        let tests: Vec<&str> = shown_by.split(", ").map(|name| name.trim_matches('`')).collect();
        wrong.extend(
            tests.iter().filter_map(|name| Some(format!("{feature}: {name}: {}", exists(root, name).err()?))),
        );
        assert!(cells[1..8].iter().any(|cell| !cell.is_empty()), "{feature} works with nothing");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for there in [
        "api::features::a_test_that_is_not_there_is_missed",
        "gateway::http::server::tests::only_loopback_is_open_without_keys",
        "gateway::chat::tests::requests::choices_of_tools",
        "tests/sdk/test_openai.py::test_chat",
    ] {
        assert_eq!(exists(root, there), Ok(()), "{there}");
    }
    for missing in [
        "api::features::exists",
        "api::features::tests::every_feature_names_tests_that_exist",
        "api::nowhere::every_feature_names_tests_that_exist",
        "gateway::http::server::tests::nothing_of_the_sort",
        "tests/sdk/test_openai.py::test_nothing",
        "tests/sdk/nothing.py::test_chat",
    ] {
        assert!(exists(root, missing).is_err(), "{missing}");
    }
}
