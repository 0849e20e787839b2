//! Whatever stands in a file, reading it ends, in a configuration or in errors with lines.

use super::{EXAMPLE, ROUTES_IF, parse};
use novastack::config::{Expression, Facts};
use proptest::prelude::*;

/// Pieces that files and expressions are made of, and some that they are not.
const PIECES: [&str; 48] = [
    "models:",
    "providers:",
    "routes:",
    "aliases:",
    "keys:",
    "limits:",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    ": ",
    "&a ",
    "*a",
    "!!str ",
    "~",
    "\"",
    "'",
    "#",
    "|",
    ">",
    "---\n",
    "match: ",
    "default: ",
    "use: ",
    "split: ",
    "cheapest: ",
    "auto",
    "kimi-2.6",
    "context_length",
    "header[\"x\"]",
    " and ",
    " not ",
    "(",
    ")",
    " in ",
    "-",
    "1e999",
    "18446744073709551616",
    "\u{fe0f}",
    "\t",
    "<<: ",
    "0",
    "é",
];

fn pieces() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..60).prop_map(|pieces| pieces.concat())
}

fn read(text: &str) {
    if let Err(errors) = parse(text) {
        let count = text.lines().count();
        assert!((1..=20).contains(&errors.lines().len()), "{errors}");
        for error in errors.lines() {
            let line =
                error.strip_prefix("f.yaml:").expect("the file's name").split(':').next().expect("a line");
            // An error of the file as a whole has no line.
            assert!(line.starts_with(' ') || line.parse::<usize>().expect(error) <= count + 1, "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_files_are_read_or_refused(text in pieces()) {
        read(&text);
    }

    #[test]
    fn mutated_examples_are_read_or_refused(
        (use_short, cuts) in (any::<bool>(), proptest::collection::vec((any::<proptest::sample::Index>(), 0..12_usize, pieces()), 1..4))
    ) {
        let mut text: Vec<char> = if use_short { ROUTES_IF } else { EXAMPLE }.chars().collect();
        for (at, removed, mut inserted) in cuts {
            let at = at.index(text.len() + 1);
            inserted.truncate(inserted.char_indices().nth(8).map_or(inserted.len(), |(at, _)| at));
            text.splice(at..(at + removed).min(text.len()), inserted.chars());
        }
        read(&text.into_iter().collect::<String>());
    }

    #[test]
    fn random_expressions_compile_or_are_refused(text in pieces(), other in "[a-z_ ()<>=!\"0-9\\[\\]+*/%.,-]{0,60}") {
        for text in [text, other] {
            if let Ok(expression) = Expression::compile(&text) {
                expression.matches(&Facts::default());
            }
        }
    }
}

#[test]
fn depth_and_size_are_bounded() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        // Each alias doubles what the one before holds.
        (0..64).fold("models: 1\na0: &a0 [x]\n".to_owned(), |text, n| {
            format!("{text}a{}: &a{} [*a{n}, *a{n}]\n", n + 1, n + 1)
        }),
        format!("models: {}", "x".repeat(5 << 20)),
    ] {
        let errors = parse(&text).expect_err("too much");
        assert!(errors.to_string().len() < 4096, "{errors}");
    }
    for part in ["(", "not ", "-", "[", "1 + ", "header[", "1 == ", "a.b", "(1)+"] {
        for times in [10, 100, 990 / part.len()] {
            assert!(Expression::compile(&part.repeat(times)).is_err());
            let _ = Expression::compile(&format!("{}1", part.repeat(times)));
        }
    }
    let long = format!("context_length > 1{}", " ".repeat(1000));
    assert!(Expression::compile(&long).expect_err("long").contains("1000 characters"));
}
