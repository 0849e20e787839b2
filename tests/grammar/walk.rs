//! What masks allow.

use super::{Walk, accepts, byte_token, compiler, ends, tokenizer};
use novastack::text::grammar::{After, Grammar};
use serde_json::json;

#[test]
fn an_answer_ends_where_the_grammar_may_and_must() {
    assert!(ends().len() > 1, "several tokens end an answer of this model");
    let mut walk = Walk::new(&Grammar::Regex("ab+".into()), &After::Nothing);
    assert!(!walk.may_end());
    walk.write("a").unwrap();
    assert!(!walk.may_end());
    walk.write("b").unwrap();
    assert!(walk.may_end() && !walk.must_end());
    let mut walk = Walk::new(&Grammar::Choice(vec!["yes".into(), "no".into()]), &After::Nothing);
    walk.write("yes").unwrap();
    assert!(walk.must_end(), "{:?}", walk.allowed());
    // What comes behind the end is the end again.
    walk.constraint.accept(ends()[1]).unwrap();
    assert!(walk.must_end());
}

#[test]
fn special_tokens_are_no_text() {
    let mut walk = Walk::new(&Grammar::JsonSchema(json!({"type": "string"})), &After::Nothing);
    walk.write("\"<|im_").unwrap();
    let start = tokenizer().token_id("<|im_start|>").unwrap();
    assert!(!walk.may(start) && ends().iter().all(|end| !walk.may(*end)));
    // Spelled out they are text.
    walk.write("end|>\"").unwrap();
    assert!(walk.may_end());
    let mut walk = Walk::new(&Grammar::Regex("(?s:.*)".into()), &After::Nothing);
    assert!(!walk.may(start) && walk.may_end());
}

#[test]
fn white_space_in_json_is_bounded() {
    let grammar = Grammar::JsonObject;
    for fine in ["{}", "{ }", "{\"a\": 1, \"b\":[1,2]}", "{\n  \"a\": {\n    \"b\": null\n  }\n}"] {
        assert!(accepts(&grammar, fine), "{fine:?}");
    }
    for between in [" ".repeat(3), "\n\n".into(), format!("\n{}", " ".repeat(49)), "\t".into(), " \n".into()]
    {
        for text in [
            format!("{{{between}\"a\":1}}"),
            format!("{{\"a\":{between}1}}"),
            format!("{{\"a\":1}}{between}"),
        ] {
            assert!(!accepts(&grammar, &text), "{text:?}");
        }
    }
    let mut walk = Walk::new(&grammar, &After::Nothing);
    walk.write("{").unwrap();
    let mut spaces = 0;
    while walk.write(" ").is_ok() {
        spaces += 1;
    }
    assert_eq!(spaces, 2);
}

#[test]
fn json_is_what_json_object_says() {
    for (text, is) in [
        ("{}", true),
        ("{\"a\":[1,2.5e3,\"x\\n\\t\\\"\",true,null,{}]}", true),
        ("[]", false),
        ("1", false),
        ("{\"a\":01}", false),
        ("{\"a\":1,}", false),
        ("{\"a\":'b'}", false),
        ("{\"a\":\"\n\"}", false),
    ] {
        assert_eq!(accepts(&Grammar::JsonObject, text), is, "{text}");
    }
}

fn thinking(open: Option<&str>, budget: Option<u32>) -> After {
    After::Reasoning { open: open.map(Into::into), close: "</think>".into(), budget }
}

#[test]
fn a_grammar_begins_behind_the_reasoning() {
    let grammar = Grammar::Choice(vec!["yes".into()]);
    let mut walk = Walk::new(&grammar, &thinking(None, None));
    // Text that looks like an end, and special tokens that are none, are the model's own.
    walk.write("no {</thin</think").unwrap();
    assert!(!walk.may_end(), "reasoning must come to an answer");
    walk.write(">").unwrap();
    assert!(walk.may(byte_token(b'y')) && !walk.may(byte_token(b'n')));
    walk.write("yes").unwrap();
    assert!(walk.must_end());
    assert!(Walk::new(&grammar, &thinking(None, None)).write("</think>no").is_err());
}

#[test]
fn a_model_that_does_not_open_its_reasoning_answers_at_once() {
    let grammar = Grammar::Regex("<tool>|yes".into());
    for (text, is) in [
        ("<think>hm</think>yes", true),
        ("yes", true),
        ("<tool>", true),
        ("<think></think><tool>", true),
        ("<think>hm</think>no", false),
        ("no", false),
        ("<thi>", false),
    ] {
        let mut walk = Walk::new(&grammar, &thinking(Some("<think>"), None));
        assert_eq!(walk.write(text).is_ok() && walk.may_end(), is, "{text}");
    }
}

#[test]
fn a_budget_closes_the_reasoning_token_by_token() {
    let grammar = Grammar::Choice(vec!["yes".into()]);
    for budget in [0, 1, 5] {
        let mut walk = Walk::new(&grammar, &thinking(None, Some(budget)));
        for _ in 0..budget {
            walk.write("x").unwrap();
        }
        let mut closed = Vec::new();
        while !closed.ends_with(b"</think>") {
            let allowed = walk.allowed().expect("a mask");
            let [forced] = allowed[..] else { panic!("one token is forced, got {allowed:?}") };
            closed.extend(tokenizer().token_text(forced).1);
            walk.constraint.accept(forced).unwrap();
        }
        assert_eq!(closed, b"</think>");
        walk.write("yes").unwrap();
        assert!(walk.must_end());
    }
    // Closed before the budget was spent.
    let mut walk = Walk::new(&grammar, &thinking(None, Some(50)));
    walk.write("x</think>yes").unwrap();
    assert!(walk.must_end());
    // A budget of nothing is not opened.
    assert!(Walk::new(&grammar, &thinking(Some("<think>"), Some(0))).write("<").is_err());
}

#[test]
fn a_budget_alone_leaves_the_rest_free() {
    let factory = compiler().reasoning(&thinking(None, Some(4))).unwrap();
    let mut walk = Walk::of(factory.constraint());
    for _ in 0..4 {
        assert_eq!(walk.allowed(), None);
        walk.write("x").unwrap();
    }
    while let Some(allowed) = walk.allowed() {
        assert_eq!(allowed.len(), 1);
        walk.constraint.accept(allowed[0]).unwrap();
    }
    walk.write("anything").unwrap();
    assert_eq!(walk.allowed(), None);
    assert!(walk.may_end());
}

#[test]
fn two_constraints_of_a_grammar_have_their_own_states() {
    let compiled = compiler().compile(&Grammar::Regex("a*b".into())).unwrap();
    let factory = compiled.factory(&After::Nothing).unwrap();
    let (mut one, mut two) = (Walk::of(factory.constraint()), Walk::of(factory.constraint()));
    one.write("aab").unwrap();
    assert!(one.must_end() && !two.may_end());
    two.write("b").unwrap();
    assert!(two.must_end());
}
