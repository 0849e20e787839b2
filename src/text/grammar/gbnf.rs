//! Grammars as llama.cpp writes them (GBNF), and vLLM's and SGLang's EBNF where it is the same: read here, and written as
//! llguidance's Lark.
//!
//! ```text
//! root  ::= list | "none"        # a comment
//! list  ::= item (", " item)*
//! item  ::= [a-z] [^\n,]{0,20} | "\x41" .?
//! ```
//!
//! A grammar of this kind is over single characters, whatever is ambiguous in it; llguidance's are over lexemes, which
//! take as much as they can. So each character is a lexeme of its own, and the language is the same to the letter. A
//! grammar in which no rule comes back to itself is one regular expression, which is faster.
//!
//! Absent on purpose: tokens by their names or numbers (`<think>`, `<[1000]>`, `!<..>`), which are no text; they are
//! refused. Left recursion, which llama.cpp refuses, is fine here.

use super::GrammarError;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Groups within each other; and rules within each other in the one regular expression.
const DEPTH_MAX: usize = 64;
/// Of `{m,n}`, as llama.cpp has it.
const TIMES_MAX: u32 = 2_000;
/// Bytes of the one regular expression; a longer grammar is written as rules.
const REGEX_BYTES_MAX: usize = 16 << 10;

/// Whether a text is of this kind, by its first rule: `name ::=`, where Lark writes `name:`.
pub(super) fn is_gbnf(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("//"));
    first.is_some_and(|line| {
        let rest = line.trim_start_matches(is_name_char);
        rest.len() < line.len() && rest.trim_start().starts_with("::=")
    })
}

/// The same grammar in Lark.
pub(super) fn lark(text: &str) -> Result<String, GrammarError> {
    let rules = Reader::new(text).rules()?;
    let mut regex = String::new();
    let mut open = BTreeSet::new();
    if let Some(root) = rules.get(ROOT)
        && write_regex(&root.body, &rules, &mut open, &mut regex)
    {
        return Ok(format!("start: /{regex}/"));
    }
    let numbers: BTreeMap<&str, usize> = rules.keys().map(String::as_str).zip(0..).collect();
    let mut lark = format!("start: rule_{}\n", numbers[ROOT]);
    for (name, rule) in &rules {
        let _ = write!(lark, "rule_{}: ", numbers[name.as_str()]);
        write_lark(&rule.body, &numbers, &mut lark);
        lark.push('\n');
    }
    Ok(lark)
}

const ROOT: &str = "root";

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[derive(Debug)]
enum Node {
    /// One character of these ranges, or of all others.
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
    Any,
    Rule(String),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat {
        what: Box<Node>,
        least: u32,
        most: Option<u32>,
    },
}

struct Rule {
    body: Node,
    /// Where it refers to others.
    references: Vec<(String, usize)>,
}

/// Reads a grammar.
struct Reader<'t> {
    text: &'t str,
    at: usize,
    references: Vec<(String, usize)>,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0, references: Vec::new() }
    }

    fn rules(mut self) -> Result<BTreeMap<String, Rule>, GrammarError> {
        let mut rules = BTreeMap::new();
        self.skip_space(true);
        while self.peek().is_some() {
            let begin = self.at;
            let name =
                self.name().ok_or_else(|| self.error(begin, "a rule's name must stand here"))?.to_owned();
            self.skip_space(false);
            if !self.take("::=") {
                return Err(self.error(self.at, format!("`::=` must follow the name `{name}`")));
            }
            self.skip_space(true);
            let body = self.choice(0)?;
            match self.peek() {
                None | Some('\n' | '\r') => {}
                Some(c) => return Err(self.error(self.at, format!("{c:?} cannot stand here"))),
            }
            let rule = Rule { body, references: std::mem::take(&mut self.references) };
            if rules.insert(name.clone(), rule).is_some() {
                return Err(self.error(begin, format!("there are two rules `{name}`")));
            }
            self.skip_space(true);
        }
        if !rules.contains_key(ROOT) {
            return Err(GrammarError::Invalid(
                "a grammar must have a rule `root`, which it begins with".into(),
            ));
        }
        let mut references = rules.values().flat_map(|rule| &rule.references);
        match references.find(|(name, _)| !rules.contains_key(name)) {
            Some((name, at)) => Err(self.error(*at, format!("there is no rule `{name}`"))),
            None if ends(&rules) => Ok(rules),
            None => Err(GrammarError::Invalid("no text of the rule `root` comes to an end".into())),
        }
    }

    /// Sequences with `|` between them.
    fn choice(&mut self, depth: usize) -> Result<Node, GrammarError> {
        if depth > DEPTH_MAX {
            let limit = format!("at most {DEPTH_MAX} groups may lie within each other");
            return Err(self.error(self.at, limit));
        }
        let mut choices = vec![self.sequence(depth)?];
        while self.take("|") {
            self.skip_space(true);
            choices.push(self.sequence(depth)?);
        }
        Ok(if choices.len() == 1 { choices.remove(0) } else { Node::Choice(choices) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, GrammarError> {
        let mut parts = Vec::new();
        loop {
            let begin = self.at;
            let Some(c) = self.peek() else { break };
            let part = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    Node::Any
                }
                '(' => {
                    self.at += 1;
                    self.skip_space(true);
                    let inner = self.choice(depth + 1)?;
                    if !self.take(")") {
                        return Err(self.error(begin, "this group is not closed by `)`"));
                    }
                    inner
                }
                '<' | '!' => {
                    return Err(
                        self.error(begin, "tokens (`<..>`, `!<..>`) are not supported: text alone is")
                    );
                }
                c if is_name_char(c) => {
                    let name = self.name().unwrap_or_default().to_owned();
                    self.references.push((name.clone(), begin));
                    Node::Rule(name)
                }
                '*' | '+' | '?' | '{' => {
                    return Err(self.error(begin, format!("nothing stands before `{c}`")));
                }
                _ => break,
            };
            let part = self.repeated(part)?;
            parts.push(part);
            self.skip_space(depth > 0);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Sequence(parts) })
    }

    /// With what says how often it comes.
    fn repeated(&mut self, mut part: Node) -> Result<Node, GrammarError> {
        loop {
            // A repetition may stand behind spaces, as in llama.cpp.
            let before = self.at;
            self.skip_space(false);
            let begin = self.at;
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.at += 1;
                    let least = self.number()?;
                    let most = if !self.take(",") {
                        Some(least)
                    } else if self.peek().is_some_and(|c| c.is_ascii_digit()) {
                        Some(self.number()?)
                    } else {
                        None
                    };
                    if self.peek() != Some('}') {
                        return Err(self.error(begin, "a repetition is {m}, {m,} or {m,n}"));
                    }
                    if most.is_some_and(|most| most < least) {
                        return Err(
                            self.error(begin, "a repetition must not have more at least than at most")
                        );
                    }
                    (least, most)
                }
                _ => {
                    self.at = before;
                    return Ok(part);
                }
            };
            self.at += 1;
            part = Node::Repeat { what: Box::new(part), least, most };
        }
    }

    fn number(&mut self) -> Result<u32, GrammarError> {
        let begin = self.at;
        let rest = &self.text[begin..];
        let digits = &rest[..rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len()];
        self.at += digits.len();
        let number = digits.parse().ok().filter(|number| *number <= TIMES_MAX);
        number
            .ok_or_else(|| self.error(begin, format!("a whole number from 0 to {TIMES_MAX} must stand here")))
    }

    fn literal(&mut self) -> Result<Node, GrammarError> {
        let begin = self.at;
        self.at += 1;
        let mut characters = Vec::new();
        while !self.take("\"") {
            if self.peek().is_none() {
                return Err(self.error(begin, "this text is not closed by `\"`"));
            }
            let c = self.character()?;
            characters.push(Node::Class { is_negated: false, ranges: vec![(c, c)] });
        }
        Ok(Node::Sequence(characters))
    }

    fn class(&mut self) -> Result<Node, GrammarError> {
        let begin = self.at;
        self.at += 1;
        let is_negated = self.take("^");
        let mut ranges = Vec::new();
        while !self.take("]") {
            if self.peek().is_none() {
                return Err(self.error(begin, "these characters are not closed by `]`"));
            }
            let first_at = self.at;
            let first = self.character()?;
            let rest = &self.text[self.at..];
            let last = match rest.starts_with('-') && !rest.starts_with("-]") && rest.len() > 1 {
                true => {
                    self.at += 1;
                    self.character()?
                }
                false => first,
            };
            if last < first {
                return Err(self.error(first_at, format!("the range {first:?}-{last:?} has no characters")));
            }
            ranges.push((first, last));
        }
        match ranges.is_empty() {
            true => Err(self.error(begin, "there must be characters between `[` and `]`")),
            false => Ok(Node::Class { is_negated, ranges }),
        }
    }

    /// A character, or the escape of one.
    fn character(&mut self) -> Result<char, GrammarError> {
        let begin = self.at;
        let mut rest = self.text[begin..].chars();
        let Some(c) = rest.next() else { return Err(self.error(begin, "a character must stand here")) };
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(c);
        }
        let escaped = rest.next();
        self.at += escaped.map_or(0, char::len_utf8);
        let digits = match escaped {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => {
                let known = r#"\n, \r, \t, \\, \", \[, \], \-, \^, \xHH, \uHHHH and \UHHHHHHHH"#;
                return Err(self.error(begin, format!("no such escape: there are {known}")));
            }
        };
        let hex = self.text[self.at..].get(..digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        self.at += if code.is_some() { digits } else { 0 };
        code.and_then(char::from_u32).ok_or_else(|| {
            self.error(begin, format!("{digits} hexadecimal digits of a character must stand here"))
        })
    }

    fn name(&mut self) -> Option<&'t str> {
        let rest = &self.text[self.at..];
        let name = &rest[..rest.len() - rest.trim_start_matches(is_name_char).len()];
        self.at += name.len();
        Some(name).filter(|name| !name.is_empty())
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, word: &str) -> bool {
        let is_here = self.text[self.at..].starts_with(word);
        self.at += if is_here { word.len() } else { 0 };
        is_here
    }

    /// Over spaces and comments, and line breaks where they end nothing.
    fn skip_space(&mut self, over_lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if over_lines => self.at += 1,
                '#' => {
                    self.at += self.text[self.at..].find(['\n', '\r']).unwrap_or(self.text.len() - self.at)
                }
                _ => return,
            }
        }
    }

    fn error(&self, at: usize, reason: impl std::fmt::Display) -> GrammarError {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        GrammarError::Invalid(format!("line {line}, column {column}: {reason}"))
    }
}

/// Whether some text of the root ends: a rule that is found to may be what others have waited for.
fn ends(rules: &BTreeMap<String, Rule>) -> bool {
    let mut waiting: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, rule) in rules {
        rule.references.iter().for_each(|(to, _)| waiting.entry(to.as_str()).or_default().push(name));
    }
    let mut ending = BTreeSet::new();
    let mut open: Vec<&str> = rules.keys().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        if !ending.contains(name) && rules.get(name).is_some_and(|rule| can_end(&rule.body, &ending)) {
            ending.insert(name);
            open.extend(waiting.get(name).into_iter().flatten());
        }
    }
    ending.contains(ROOT)
}

fn can_end(node: &Node, ending: &BTreeSet<&str>) -> bool {
    match node {
        Node::Class { .. } | Node::Any => true,
        Node::Rule(name) => ending.contains(name.as_str()),
        Node::Sequence(parts) => parts.iter().all(|part| can_end(part, ending)),
        Node::Choice(choices) => choices.iter().any(|choice| can_end(choice, ending)),
        Node::Repeat { what, least, .. } => *least == 0 || can_end(what, ending),
    }
}

/// One lexeme a character.
fn write_lark(node: &Node, numbers: &BTreeMap<&str, usize>, lark: &mut String) {
    let group = |nodes: &[Node], between: &str, lark: &mut String| {
        lark.push('(');
        for (at, node) in nodes.iter().enumerate() {
            lark.push_str(if at == 0 { "" } else { between });
            write_lark(node, numbers, lark);
        }
        lark.push(')');
    };
    match node {
        Node::Class { .. } | Node::Any => {
            lark.push('/');
            write_class(node, lark);
            lark.push('/');
        }
        Node::Rule(name) => {
            let _ = write!(lark, "rule_{}", numbers[name.as_str()]);
        }
        Node::Sequence(parts) if parts.is_empty() => lark.push_str("\"\""),
        Node::Sequence(parts) => group(parts, " ", lark),
        Node::Choice(choices) => group(choices, " | ", lark),
        Node::Repeat { most: Some(0), .. } => lark.push_str("\"\""),
        Node::Repeat { what, least, most } => {
            group(std::slice::from_ref(what), "", lark);
            write_times(*least, *most, lark);
        }
    }
}

/// The whole as a regular expression, without what Lark's slashes would end. False: a rule comes back to itself, or it
/// is too long.
fn write_regex<'r>(
    node: &'r Node,
    rules: &'r BTreeMap<String, Rule>,
    open: &mut BTreeSet<&'r str>,
    regex: &mut String,
) -> bool {
    let mut group = |nodes: &'r [Node], between: &str, regex: &mut String| {
        regex.push_str("(?:");
        let all = nodes.iter().enumerate().all(|(at, node)| {
            regex.push_str(if at == 0 { "" } else { between });
            write_regex(node, rules, open, regex)
        });
        regex.push(')');
        all
    };
    let is_regular = match node {
        Node::Class { .. } | Node::Any => {
            write_class(node, regex);
            true
        }
        Node::Rule(name) => {
            let is_deep = open.len() >= DEPTH_MAX;
            let Some(rule) = rules.get(name).filter(|_| !is_deep && open.insert(name)) else { return false };
            regex.push_str("(?:");
            let is_regular = write_regex(&rule.body, rules, open, regex);
            regex.push(')');
            open.remove(name.as_str());
            is_regular
        }
        Node::Sequence(parts) => group(parts, "", regex),
        Node::Choice(choices) => group(choices, "|", regex),
        Node::Repeat { what, least, most } => {
            let is_regular = group(std::slice::from_ref(what), "", regex);
            write_times(*least, *most, regex);
            is_regular
        }
    };
    is_regular && regex.len() <= REGEX_BYTES_MAX
}

fn write_times(least: u32, most: Option<u32>, text: &mut String) {
    let _ = match (least, most) {
        (0, None) => write!(text, "*"),
        (1, None) => write!(text, "+"),
        (0, Some(1)) => write!(text, "?"),
        (least, None) => write!(text, "{{{least},}}"),
        (least, Some(most)) => write!(text, "{{{least},{most}}}"),
    };
}

fn write_class(node: &Node, text: &mut String) {
    let Node::Class { is_negated, ranges } = node else { return text.push_str(r"(?s:.)") };
    text.push_str(if *is_negated { "[^" } else { "[" });
    for (first, last) in ranges {
        let _ = match first == last {
            true => write!(text, r"\x{{{:x}}}", u32::from(*first)),
            false => write!(text, r"\x{{{:x}}}-\x{{{:x}}}", u32::from(*first), u32::from(*last)),
        };
    }
    text.push(']');
}
