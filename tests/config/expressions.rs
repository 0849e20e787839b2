//! What conditions mean, and which are refused.

use novastack::config::{Expression, Facts};

fn facts() -> Facts {
    Facts {
        context_length: 90_000,
        task: "reasoning".into(),
        budget: Some(0.001),
        model: "auto".into(),
        path: "/v1/chat/completions".into(),
        key: "ci".into(),
        headers: vec![("x-forwarded-to".into(), "Claude".into())],
        images: 2,
        tools: 0,
        // Wednesday, 1 January 2025, 13:30 UTC.
        unix_s: 1_735_738_200,
    }
}

fn holds(text: &str, facts: &Facts) -> bool {
    Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error}")).matches(facts)
}

#[test]
fn conditions_mean_what_they_say() {
    for (text, expected) in [
        ("context_length > 80000", true),
        ("context_length >= 90000 and context_length <= 90000", true),
        ("context_length == 90000.0", true),
        ("context_length < 90000 or task == \"chat\"", false),
        ("task == task_type", true),
        ("task != 'chat'", true),
        ("not task == \"chat\"", true),
        ("task in [\"chat\", \"reasoning\"]", true),
        ("task not in (\"chat\", \"reasoning\")", false),
        ("\"reason\" in task", true),
        ("task.startswith(\"rea\") and task.endswith(\"ing\")", true),
        ("path.startswith(\"/anthropic\")", false),
        ("model == \"auto\" and key == \"ci\"", true),
        ("header[\"X-Forwarded-To\"] == \"Claude\"", true),
        ("header[\"x-forwarded-to\"].lower() == \"claude\"", true),
        ("header[\"x-other\"] == \"\"", true),
        ("images", true),
        ("tools", false),
        ("not tools and images", true),
        ("(images > 0) == true", true),
        ("(images > 0) != (tools > 0)", true),
        ("hour == 13 and weekday == 3", true),
        ("8 <= hour < 18", true),
        ("18 < hour < 8", false),
        ("hour in [12, 13]", true),
        ("weekday > 5", false),
        ("budget < 0.0005", false),
        ("budget * 1000 == 1", true),
        ("context_length / 1000 + 10 - 2 * 5 == 90", true),
        ("context_length // 40000 == 2 and context_length % 40000 == 10000", true),
        ("-images == 0 - 2", true),
        ("-7 // 2 == -4 and -7 % 2 == 1", true),
        ("context_length / tools > 1e300", true),
        ("tools / tools == tools / tools", false),
        ("task < \"s\"", true),
        ("true", true),
        ("false or not true", false),
    ] {
        assert_eq!(holds(text, &facts()), expected, "{text}");
    }
}

#[test]
fn no_budget_is_more_than_any_number() {
    let facts = Facts { budget: None, ..facts() };
    for (text, expected) in [
        ("budget < 0.0005", false),
        ("budget > 1", true),
        ("budget > 1e308", true),
        ("budget == budget", true),
        ("budget / 2 > 1", true),
    ] {
        assert_eq!(holds(text, &facts), expected, "{text}");
    }
}

#[test]
fn the_week_begins_on_monday() {
    for (unix_s, hour, weekday) in
        [(0, 0, 4), (3 * 86_400, 0, 7), (4 * 86_400, 0, 1), (4 * 86_400 - 1, 23, 7)]
    {
        let facts = Facts { unix_s, ..Facts::default() };
        assert!(holds(&format!("hour == {hour} and weekday == {weekday}"), &facts), "{unix_s}");
    }
}

#[test]
fn headers_are_asked_for_by_name() {
    let text = "header[\"X-A\"] == header['x-b'] or header[\"x-a\"] != \"\"";
    let expression = Expression::compile(text).expect("valid");
    assert_eq!(expression.headers().collect::<Vec<_>>(), ["x-a", "x-b"]);
    assert_eq!(expression.source(), text);
    assert_eq!(Expression::compile("images").expect("valid").headers().count(), 0);
}

#[test]
fn mistakes_are_told() {
    for (text, words) in [
        ("contextlength > 8", "`contextlength` is not known: did you mean `context_length`?"),
        ("tsak == \"x\"", "did you mean `task`?"),
        ("headers[\"x\"] == \"\"", "`headers` is not known: did you mean `header`?"),
        ("task == chat", "`chat` is not known; known are context_length"),
        ("context_length > \"80\"", "`context_length > \"80\"` compares a number with text"),
        ("task == 3 or images", "`task == 3` compares text with a number"),
        ("images and (task > 1)", "`task > 1` compares text with a number"),
        ("task", "`task` is text, not true or false: compare it, as in `task != \"\"`"),
        ("header[\"x-a\"] and images", "`header[\"x-a\"]` is text"),
        ("task in [\"a\", 1]", "a list holds text and a number: one kind only"),
        ("images in [\"a\"]", "`images in [\"a\"]` compares a number with text"),
        ("images in 3", "looks for a number in a number"),
        ("task in []", "an empty list"),
        ("task == [\"a\"]", "compares text with a list"),
        ("[1]", "`[1]` is a list, not true or false"),
        ("task + \"x\" == \"y\"", "`+` takes numbers, and `task` is text"),
        ("-task == 1", "`-` takes numbers"),
        ("task ~ \"x\" == \"y\"", "is not allowed here; allowed are"),
        ("2 ** 3 == images", "`2 ** 3` is not allowed here"),
        ("budget == none", "without a budget, `budget` is more than any number"),
        ("images > 0 == true", "compares a number with true or false"),
        ("(images > 0) < true", "true and false have no order"),
        ("header.x_team == \"a\"", "a header is written header[\"x-team\"]"),
        ("header == \"a\"", "a header is written header[\"name\"]"),
        ("header[task] == \"a\"", "`header[task]` is not allowed here"),
        ("header[\"a b\"] == \"a\"", "`header[\"a b\"]` is no header"),
        ("header[1] == \"a\"", "is no header"),
        ("task|upper == \"A\"", "is not allowed here"),
        ("task is defined", "is not allowed here"),
        ("images if tools else 1", "is not allowed here"),
        ("range(3)", "is not allowed here"),
        ("task.upper() == \"A\"", "is not allowed here"),
        ("images.lower() == \"a\"", "`.lower()` is for text, and `images` is not text"),
        ("task.startswith(1)", "`.startswith()` takes text, not a number"),
        ("task.startswith()", "`.startswith()` takes one text"),
        ("task.lower(1) == \"a\"", "`.lower()` takes nothing"),
        ("task[0] == \"a\"", "is not allowed here"),
        ("task = \"a\"", "allowed are context_length"),
        ("images > ", "allowed are"),
        ("", "allowed are"),
        ("images && tools", "allowed are"),
        ("{{ images }}", "allowed are"),
    ] {
        let error = Expression::compile(text).expect_err(text);
        assert!(error.contains(words), "{text}\n  said: {error}\n  not: {words}");
    }
}

/// `cargo test --release --test novastack how_long_a_condition_takes -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn how_long_a_condition_takes() {
    let facts = facts();
    for text in [
        "context_length > 80000",
        "task == \"long_document_qa\" and context_length > 100000",
        "header[\"x-forwarded-to\"] == \"claude\" or (hour in [8, 9, 10] and not path.startswith(\"/anthropic\"))",
    ] {
        let expression = Expression::compile(text).expect("valid");
        let start = std::time::Instant::now();
        let rounds = 1_000_000;
        for _ in 0..rounds {
            std::hint::black_box(expression.matches(std::hint::black_box(&facts)));
        }
        println!("{:6.1} ns  {text}", start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds));
    }
}
