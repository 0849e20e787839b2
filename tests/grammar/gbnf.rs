//! Grammars in llama.cpp's GBNF: what they accept, to the letter, and what is wrong with them, by line and column.

use super::{accepts, compiler};
use novastack::text::grammar::Grammar;
use std::time::{Duration, Instant};

fn takes(gbnf: &str, texts: &[(&str, bool)]) {
    let grammar = Grammar::Gbnf(gbnf.into());
    for (text, is) in texts {
        assert_eq!(accepts(&grammar, text), *is, "{text:?} of\n{gbnf}");
    }
}

const JSON: &str = r#"
# A document, and white space behind each of its parts.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"#;

#[test]
fn a_grammar_of_json() {
    takes(
        JSON,
        &[
            ("{}", true),
            (r#"{"a": [1, -2.5e+3, "x\n\u00e9é", true, null, {}], "b":{"c": ""}}"#, true),
            ("{\n  \"a\": 1}", true),
            ("[]", false),
            ("{\"a\": tru}", false),
            ("{\"a\": 1,}", false),
            ("{\"a\": \"\\q\"}", false),
            ("{\"a\": \"\\u12\"}", false),
            ("{\"a\": 01}", false),
            ("{\"a\"", false),
        ],
    );
}

#[test]
fn a_grammar_of_sums() {
    let sums = r#"
root ::= (expr "=" ws term "\n")+
expr ::= term ([-+*/] term)*
term ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num ::= [0-9]+ ws
ws ::= [ \t\n]*"#;
    takes(
        sums,
        &[
            ("x +(1*y) = 3\n", true),
            ("1=2\na_b/3 = z\n", true),
            ("x +\n= 3\n", false),
            ("x + 1 = 3\n", false),
            ("(x = 3\n", false),
        ],
    );
}

#[test]
fn a_grammar_of_moves_on_a_board() {
    let chess = r#"root ::= (
    # begins with two moves
    "1. " move " " move "\n"
    # and goes on
    ([1-9] [0-9]? ". " move " " move "\n")+
)
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?"#;
    takes(
        chess,
        &[
            ("1. e4 e5\n2. Nf3 Nc6\n", true),
            ("1. e4 exd5\n2. O-O-O Qh4+\n10. e8=Q Kf7\n", true),
            ("1. e4 e5\n", false),
            ("1. e4 e9\n2. a1 a2\n", false),
        ],
    );
}

/// Where a lexer that takes as much as it can would lose its way.
#[test]
fn what_is_ambiguous_is_taken_in_every_way() {
    takes(
        "root ::= [a-z]+ \"x\"",
        &[("ax", true), ("xx", true), ("axxax", true), ("x", false), ("axb", false)],
    );
    takes(
        "root ::= item root | \"end\"\nitem ::= [a-z]* \"n\" | \"e\"",
        &[("end", true), ("nnend", true), ("eeend", true), ("enden", false), ("endnend", true)],
    );
    // The same with rules that come back to themselves on both sides.
    takes(
        "root ::= \"a\" root \"a\" | \"b\" | \"ab\"",
        &[("aba", true), ("aaabaa", true), ("ab", true), ("aab", false)],
    );
    takes("root ::= root \"+\" root | [0-9]", &[("1+2+3", true), ("1+", false), ("1", true)]);
    takes(
        "root ::= \"\" | \"(\" root \")\" root",
        &[("", true), ("(()())()", true), ("(", false), (")(", false)],
    );
}

#[test]
fn repetitions_classes_escapes_and_comments() {
    takes("root ::= [ab]{2,3}", &[("a", false), ("ab", true), ("aba", true), ("abab", false)]);
    takes(
        "root ::= \"ab\"{2} \"c\"{0,1} \"d\"{1,}",
        &[("ababd", true), ("ababcddd", true), ("abd", false), ("abab", false)],
    );
    takes("root ::= (\"a\" root \"b\"){0,2} \"c\"{3}", &[("ccc", true), ("acccbccc", true), ("cc", false)]);
    takes("root ::= \"ab\"* # a comment \" | here\n", &[("", true), ("abab", true), ("aba", false)]);
    takes(
        "root ::= \"a\" . \"b\"",
        &[("axb", true), ("a\nb", true), ("aéb", true), ("a😀b", true), ("ab", false)],
    );
    takes("root ::= [^a-c\\n]+", &[("xyz é", true), ("xb", false), ("x\n", false)]);
    takes("root ::= [ぁ-ゟ一-龯、。]+", &[("こんにちは、世界。", true), ("hello", false)]);
    takes(
        r#"root ::= "\x41\u00e9\U0001F600\t\\\"" [\]\-a\[]"#,
        &[("Aé😀\t\\\"]", true), ("Aé😀\t\\\"-", true), ("Aé😀\t\\\"b", false)],
    );
    takes("root ::= [a-]+ [/\"]", &[("a-a/", true), ("-\"", true), ("b/", false)]);
    takes(
        "root::=a-1|\n b_2\na-1::=\"x\"\r\n\r\nb_2 ::= (\n\"y\"\n|\n\"z\" )",
        &[("x", true), ("y", true), ("z", true), ("w", false)],
    );
    takes("root ::= | \"a\"", &[("", true), ("a", true), ("b", false)]);
    takes("root ::= \"a\"{0} \"b\"", &[("b", true), ("ab", false)]);
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_column() {
    let many = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
    for (gbnf, says) in [
        ("start ::= \"a\"", "must have a rule `root`"),
        ("", "must have a rule `root`"),
        ("root ::= \"a\" other", "line 1, column 14: there is no rule `other`"),
        ("root ::= \"a\nb ::= \"c\"", "line 2, column 9: this text is not closed"),
        ("root ::= [a-z\n", "line 1, column 10: these characters are not closed"),
        ("root ::= [z-a]", "line 1, column 11: the range 'z'-'a' has no characters"),
        ("root ::= []", "line 1, column 10: there must be characters"),
        ("root ::= (\"a\" | \"b\"", "line 1, column 10: this group is not closed"),
        ("root ::= \"a\" )", "line 1, column 14: ')' cannot stand here"),
        ("# comment\nroot = \"a\"", "line 2, column 6: `::=` must follow the name `root`"),
        ("root ::= * \"a\"", "line 1, column 10: nothing stands before `*`"),
        ("root ::= \"a\"{3,2}", "line 1, column 13: a repetition must not have more at least"),
        ("root ::= \"a\"{x}", "line 1, column 14: a whole number from 0 to 2000"),
        ("root ::= \"a\"{2001}", "line 1, column 14: a whole number from 0 to 2000"),
        ("root ::= \"a\"{2", "line 1, column 13: a repetition is {m}"),
        ("root ::= \"\\q\"", "line 1, column 11: no such escape"),
        ("root ::= \"\\u12\"", "line 1, column 11: 4 hexadecimal digits"),
        ("root ::= \"\\ud800\"", "line 1, column 11: 4 hexadecimal digits of a character"),
        ("root ::= \"\\", "line 1, column 11: no such escape"),
        ("root ::= \"é\" <think>", "line 1, column 14: tokens (`<..>`, `!<..>`) are not supported"),
        ("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: there are two rules `root`"),
        ("root ::= root", "no text of the rule `root` comes to an end"),
        ("root ::= \"a\" b\nb ::= [0-9] root", "no text of the rule `root` comes to an end"),
        (&many, "line 1, column 75: at most 64 groups"),
    ] {
        let error = compiler().compile(&Grammar::Gbnf(gbnf.into())).expect_err(gbnf).to_string();
        assert!(error.contains(says), "{gbnf:?}: {error}");
    }
}

/// The field for grammars of either kind: the first rule says which.
#[test]
fn a_grammars_kind_is_seen_at_its_first_rule() {
    for (text, answer) in [
        ("# with a comment\n\nroot ::= \"yes\"", "yes"),
        ("root::=\"yes\"", "yes"),
        ("start: \"a ::= b\"", "a ::= b"),
        ("// root ::= \"no\"\nstart: \"yes\"", "yes"),
        ("%ignore / /\nstart: \"yes\"", "yes"),
    ] {
        assert!(accepts(&Grammar::Lark(text.into()), answer), "{text}");
    }
}

#[test]
fn no_grammar_takes_long_or_ends_the_process() {
    let doubling: String = (0..60).map(|i| format!("r{i} ::= r{} r{}\n", i + 1, i + 1)).collect();
    let chain: String = (0..4000).map(|i| format!("c{i} ::= c{}\n", i + 1)).collect();
    let back: String =
        (0..2000).map(|i| format!("c{i} ::= \"a\" c{} | \"b\"\n", (i * 7 + 1) % 2000)).collect();
    for (name, gbnf) in [
        ("doubling", format!("root ::= r0\n{doubling}r60 ::= \"a\"")),
        ("a chain", format!("root ::= c0\n{chain}c4000 ::= \"a\"")),
        ("a large circle", format!("root ::= c0\n{back}")),
        ("nothing but itself", "root ::= root".into()),
        ("no end", "root ::= \"a\" root".into()),
        ("empty loops", "root ::= (\"\"*)* | (\"a\"?)* root".into()),
        ("counted", "root ::= (([a-z]{1,2000}){1,2000}){1,2000}".into()),
        ("counted rules", "root ::= ((x{1,2000}){1,2000}){1,2000}\nx ::= \"a\" x? \"b\"".into()),
        ("exponential states", "root ::= (.* \"a\" .{60}){3}".into()),
        ("many groups", format!("root ::= {}", "(\"a\"|".repeat(60) + "\"b\"" + &")".repeat(60))),
    ] {
        let begun = Instant::now();
        let compiled = compiler().compile(&Grammar::Gbnf(gbnf));
        let took = begun.elapsed();
        println!("{name}: {took:?}, {:?}", compiled.as_ref().err().map(ToString::to_string));
        assert!(took < Duration::from_secs(6), "{name} took {took:?}");
    }
}
