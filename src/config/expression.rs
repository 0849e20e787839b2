//! Conditions of rules. The grammar is that of minijinja's expressions, of which a part is allowed;
//! types are checked once, when the file is read, and what comes out is a small tree that cannot
//! fail. (minijinja's own evaluation compares anything with anything.)

use super::read::{in_backticks, suggested};
use super::rule::Facts;
use minijinja::Value;
use minijinja::machinery::{ast, parse_expr};
use minijinja::value::ValueKind;
use std::borrow::Cow;
use std::sync::Arc;

/// Of an expression. It bounds the recursion of everything that walks one.
const CHARS_MAX: usize = 1000;

/// What an expression may ask for, besides `header["name"]`.
const VARIABLES: [&str; 11] = [
    "context_length",
    "task",
    "task_type",
    "budget",
    "model",
    "path",
    "key",
    "images",
    "tools",
    "hour",
    "weekday",
];

const OPERATORS: &str = "and, or, not, ==, !=, <, <=, >, >=, in, not in, +, -, *, /, //, %, parentheses, lists, \
    .startswith(\"..\"), .endswith(\"..\"), .lower()";

/// A compiled condition.
#[derive(Clone, Debug)]
pub struct Expression(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    source: String,
    condition: Truth,
    /// Lower-case, each once.
    headers: Vec<String>,
}

impl Expression {
    /// Checks and compiles. The error says what is wrong and what is allowed.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.chars().count() > CHARS_MAX {
            return Err(format!("is longer than {CHARS_MAX} characters"));
        }
        let parsed = parse_expr(text).map_err(|error| {
            let detail = error.detail().unwrap_or("it is no expression");
            format!("{detail}; allowed are {}, header[\"name\"], numbers, \"text\", {OPERATORS}", variables())
        })?;
        let mut compiler = Compiler { text, headers: Vec::new() };
        let condition = compiler.truth(&parsed)?;
        Ok(Self(Arc::new(Compiled { source: text.trim().into(), condition, headers: compiler.headers })))
    }

    /// Whether a request meets the condition. Cannot fail, allocates only for `.lower()`.
    pub fn matches(&self, facts: &Facts) -> bool {
        self.0.condition.holds(facts)
    }

    /// The headers it asks for, in lower case, each once.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        self.0.headers.iter().map(String::as_str)
    }

    /// As it stands in the file.
    pub fn source(&self) -> &str {
        &self.0.source
    }
}

#[derive(Clone, Debug)]
enum Number {
    Constant(f64),
    ContextLength,
    Budget,
    Images,
    Tools,
    Hour,
    Weekday,
    Negated(Box<Number>),
    Arithmetic(Arithmetic, Box<Number>, Box<Number>),
}

#[derive(Clone, Copy, Debug)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    DivideDown,
    Remainder,
}

#[derive(Clone, Debug)]
enum Text {
    Constant(String),
    Task,
    Model,
    Path,
    Key,
    Header(String),
    Lower(Box<Text>),
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug)]
enum Truth {
    Constant(bool),
    NotZero(Number),
    Not(Box<Truth>),
    And(Box<Truth>, Box<Truth>),
    Or(Box<Truth>, Box<Truth>),
    Same(Box<Truth>, Box<Truth>),
    Numbers(Comparison, Number, Number),
    Texts(Comparison, Text, Text),
    OneOfNumbers(Number, Vec<Number>),
    OneOfTexts(Text, Vec<Text>),
    /// The first within the second.
    Within(Text, Text),
    StartsWith(Text, Text),
    EndsWith(Text, Text),
}

/// What a part of an expression is.
#[derive(Clone)]
enum Typed {
    Number(Number),
    Text(Text),
    Truth(Truth),
    List(Vec<Typed>),
}

impl Typed {
    fn kind(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::Truth(_) => "true or false",
            Self::List(_) => "a list",
        }
    }

    /// As it is called in "compares a number with text".
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Number {
    fn value(&self, facts: &Facts) -> f64 {
        match self {
            Self::Constant(number) => *number,
            Self::ContextLength => facts.context_length as f64,
            Self::Budget => facts.budget.unwrap_or(f64::INFINITY),
            Self::Images => facts.images as f64,
            Self::Tools => facts.tools as f64,
            Self::Hour => (facts.unix_s / 3600 % 24) as f64,
            // 1 January 1970 was a Thursday, the fourth day.
            Self::Weekday => ((facts.unix_s / 86_400 + 3) % 7 + 1) as f64,
            Self::Negated(number) => -number.value(facts),
            Self::Arithmetic(operator, left, right) => {
                let (left, right) = (left.value(facts), right.value(facts));
                match operator {
                    Arithmetic::Add => left + right,
                    Arithmetic::Subtract => left - right,
                    Arithmetic::Multiply => left * right,
                    Arithmetic::Divide => left / right,
                    Arithmetic::DivideDown => (left / right).floor(),
                    Arithmetic::Remainder => left - right * (left / right).floor(),
                }
            }
        }
    }
}

impl Text {
    fn value<'a>(&'a self, facts: &'a Facts) -> Cow<'a, str> {
        Cow::Borrowed(match self {
            Self::Constant(text) => text,
            Self::Task => &facts.task,
            Self::Model => &facts.model,
            Self::Path => &facts.path,
            Self::Key => &facts.key,
            Self::Header(name) => {
                facts.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
            }
            Self::Lower(text) => return Cow::Owned(text.value(facts).to_lowercase()),
        })
    }
}

impl Comparison {
    fn holds<T: PartialOrd + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl Truth {
    fn holds(&self, facts: &Facts) -> bool {
        match self {
            Self::Constant(truth) => *truth,
            Self::NotZero(number) => number.value(facts) != 0.0,
            Self::Not(truth) => !truth.holds(facts),
            Self::And(left, right) => left.holds(facts) && right.holds(facts),
            Self::Or(left, right) => left.holds(facts) || right.holds(facts),
            Self::Same(left, right) => left.holds(facts) == right.holds(facts),
            Self::Numbers(comparison, left, right) => {
                comparison.holds(&left.value(facts), &right.value(facts))
            }
            Self::Texts(comparison, left, right) => {
                comparison.holds(&*left.value(facts), &*right.value(facts))
            }
            Self::OneOfNumbers(number, list) => {
                let number = number.value(facts);
                list.iter().any(|item| item.value(facts) == number)
            }
            Self::OneOfTexts(text, list) => {
                let text = text.value(facts);
                list.iter().any(|item| item.value(facts) == text)
            }
            Self::Within(part, whole) => whole.value(facts).contains(&*part.value(facts)),
            Self::StartsWith(text, start) => text.value(facts).starts_with(&*start.value(facts)),
            Self::EndsWith(text, end) => text.value(facts).ends_with(&*end.value(facts)),
        }
    }
}

/// From minijinja's tree to ours.
struct Compiler<'t> {
    text: &'t str,
    headers: Vec<String>,
}

impl Compiler<'_> {
    /// For `if: images`, a number is true unless it is 0.
    fn truth(&mut self, expr: &ast::Expr) -> Result<Truth, String> {
        match self.typed(expr)? {
            Typed::Truth(truth) => Ok(truth),
            Typed::Number(number) => Ok(Truth::NotZero(number)),
            Typed::Text(_) => Err(format!(
                "{0} is text, not true or false: compare it, as in `{1} != \"\"`",
                self.quoted(expr),
                self.slice(expr)
            )),
            other => Err(format!("{} is {}, not true or false", self.quoted(expr), other.kind())),
        }
    }

    fn number(&mut self, expr: &ast::Expr, operator: &str) -> Result<Box<Number>, String> {
        match self.typed(expr)? {
            Typed::Number(number) => Ok(Box::new(number)),
            other => {
                Err(format!("`{operator}` takes numbers, and {} is {}", self.quoted(expr), other.kind()))
            }
        }
    }

    fn typed(&mut self, expr: &ast::Expr) -> Result<Typed, String> {
        match expr {
            ast::Expr::Var(var) => self.variable(var.id),
            ast::Expr::Const(constant) => self.constant(&constant.value, expr),
            ast::Expr::UnaryOp(unary) => Ok(match unary.op {
                ast::UnaryOpKind::Not => Typed::Truth(Truth::Not(Box::new(self.truth(&unary.expr)?))),
                ast::UnaryOpKind::Neg => Typed::Number(Number::Negated(self.number(&unary.expr, "-")?)),
            }),
            ast::Expr::BinOp(binary) => self.binary(binary, expr),
            ast::Expr::Compare(compare) => self.chain(compare, expr),
            ast::Expr::List(list) => self.list(&list.items),
            ast::Expr::Tuple(tuple) => self.list(&tuple.items),
            ast::Expr::GetItem(item) => self.header(item, expr),
            ast::Expr::GetAttr(attribute) => match &attribute.expr {
                ast::Expr::Var(var) if var.id == "header" => {
                    Err(format!("a header is written header[\"{}\"]", attribute.name.replace('_', "-")))
                }
                _ => Err(self.not_allowed(expr)),
            },
            ast::Expr::Call(call) => self.call(call, expr),
            _ => Err(self.not_allowed(expr)),
        }
    }

    fn variable(&self, name: &str) -> Result<Typed, String> {
        Ok(match name {
            "context_length" => Typed::Number(Number::ContextLength),
            "budget" => Typed::Number(Number::Budget),
            "images" => Typed::Number(Number::Images),
            "tools" => Typed::Number(Number::Tools),
            "hour" => Typed::Number(Number::Hour),
            "weekday" => Typed::Number(Number::Weekday),
            "task" | "task_type" => Typed::Text(Text::Task),
            "model" => Typed::Text(Text::Model),
            "path" => Typed::Text(Text::Path),
            "key" => Typed::Text(Text::Key),
            "header" => return Err("a header is written header[\"name\"]".into()),
            _ => {
                let hint = suggested(name, VARIABLES.into_iter().chain(["header"]));
                let known = variables();
                return Err(format!(
                    "{} is not known{hint}; known are {known} and header[\"name\"] (text is written \"in quotes\")",
                    in_backticks(name)
                ));
            }
        })
    }

    fn constant(&self, value: &Value, expr: &ast::Expr) -> Result<Typed, String> {
        match (value.kind(), value.as_str()) {
            (_, Some(text)) => Ok(Typed::Text(Text::Constant(text.into()))),
            (ValueKind::Bool, _) => Ok(Typed::Truth(Truth::Constant(value.is_true()))),
            (ValueKind::Number, _) => f64::try_from(value.clone())
                .map(|number| Typed::Number(Number::Constant(number)))
                .map_err(|_| format!("the number {} is out of range", self.quoted(expr))),
            _ => Err(
                "`none` is nothing to compare with: without a budget, `budget` is more than any number; a \
                      missing header is \"\""
                    .into(),
            ),
        }
    }

    fn binary(&mut self, binary: &ast::BinOp, expr: &ast::Expr) -> Result<Typed, String> {
        use ast::BinOpKind as Op;
        let (left, right) = (&binary.left, &binary.right);
        let (operator, arithmetic) = match binary.op {
            Op::ScAnd | Op::ScOr => {
                let (left, right) = (Box::new(self.truth(left)?), Box::new(self.truth(right)?));
                let both = matches!(binary.op, Op::ScAnd);
                return Ok(Typed::Truth(if both { Truth::And(left, right) } else { Truth::Or(left, right) }));
            }
            Op::Eq => return self.compared(Comparison::Equal, left, right, expr),
            Op::Ne => return self.compared(Comparison::Unequal, left, right, expr),
            Op::Lt => return self.compared(Comparison::Less, left, right, expr),
            Op::Lte => return self.compared(Comparison::LessOrEqual, left, right, expr),
            Op::Gt => return self.compared(Comparison::Greater, left, right, expr),
            Op::Gte => return self.compared(Comparison::GreaterOrEqual, left, right, expr),
            Op::In => return self.is_in(left, right, expr),
            Op::Add => ("+", Arithmetic::Add),
            Op::Sub => ("-", Arithmetic::Subtract),
            Op::Mul => ("*", Arithmetic::Multiply),
            Op::Div => ("/", Arithmetic::Divide),
            Op::FloorDiv => ("//", Arithmetic::DivideDown),
            Op::Rem => ("%", Arithmetic::Remainder),
            Op::Pow | Op::Concat => return Err(self.not_allowed(expr)),
        };
        let (left, right) = (self.number(left, operator)?, self.number(right, operator)?);
        Ok(Typed::Number(Number::Arithmetic(arithmetic, left, right)))
    }

    fn compared(
        &mut self,
        comparison: Comparison,
        left: &ast::Expr,
        right: &ast::Expr,
        expr: &ast::Expr,
    ) -> Result<Typed, String> {
        Ok(Typed::Truth(match (self.typed(left)?, self.typed(right)?) {
            (Typed::Number(left), Typed::Number(right)) => Truth::Numbers(comparison, left, right),
            (Typed::Text(left), Typed::Text(right)) => Truth::Texts(comparison, left, right),
            (Typed::Truth(left), Typed::Truth(right)) => {
                let same = Truth::Same(Box::new(left), Box::new(right));
                match comparison {
                    Comparison::Equal => same,
                    Comparison::Unequal => Truth::Not(Box::new(same)),
                    _ => return Err(format!("{}: true and false have no order", self.quoted(expr))),
                }
            }
            (left, right) => {
                let (left, right, expr) = (left.kind(), right.kind(), self.quoted(expr));
                return Err(format!(
                    "{expr} compares {left} with {right}: a number compares with a number, text with text, and \
                     `in` asks for a list"
                ));
            }
        }))
    }

    fn is_in(&mut self, left: &ast::Expr, right: &ast::Expr, expr: &ast::Expr) -> Result<Typed, String> {
        Ok(Typed::Truth(match (self.typed(left)?, self.typed(right)?) {
            (Typed::Text(part), Typed::Text(whole)) => Truth::Within(part, whole),
            (Typed::Number(number), Typed::List(items)) => {
                let items = items.into_iter().map(|item| match item {
                    Typed::Number(item) => Ok(item),
                    item => Err(self.unlike("a number", &item, expr)),
                });
                Truth::OneOfNumbers(number, items.collect::<Result<_, _>>()?)
            }
            (Typed::Text(text), Typed::List(items)) => {
                let items = items.into_iter().map(|item| match item {
                    Typed::Text(item) => Ok(item),
                    item => Err(self.unlike("text", &item, expr)),
                });
                Truth::OneOfTexts(text, items.collect::<Result<_, _>>()?)
            }
            (left, right) => {
                let (left, right, expr) = (left.kind(), right.kind(), self.quoted(expr));
                return Err(format!(
                    "{expr} looks for {left} in {right}: allowed are a number in a list of numbers, text in a list \
                     of texts, and text in text"
                ));
            }
        }))
    }

    fn unlike(&self, left: &str, item: &Typed, expr: &ast::Expr) -> String {
        format!("{} compares {left} with {}", self.quoted(expr), item.kind())
    }

    /// `8 <= hour < 18` is `8 <= hour and hour < 18`.
    fn chain(&mut self, compare: &ast::Compare, expr: &ast::Expr) -> Result<Typed, String> {
        let mut left = &compare.expr;
        let mut all: Option<Truth> = None;
        for next in &compare.ops {
            let comparison = match next.op {
                ast::CompareOpKind::Eq => Comparison::Equal,
                ast::CompareOpKind::Ne => Comparison::Unequal,
                ast::CompareOpKind::Lt => Comparison::Less,
                ast::CompareOpKind::Lte => Comparison::LessOrEqual,
                ast::CompareOpKind::Gt => Comparison::Greater,
                ast::CompareOpKind::Gte => Comparison::GreaterOrEqual,
                ast::CompareOpKind::In | ast::CompareOpKind::NotIn => {
                    return Err(format!("{}: `in` cannot be part of a chain: use `and`", self.quoted(expr)));
                }
            };
            if let Typed::Truth(pair) = self.compared(comparison, left, &next.expr, expr)? {
                all = Some(match all {
                    Some(all) => Truth::And(Box::new(all), Box::new(pair)),
                    None => pair,
                });
            }
            left = &next.expr;
        }
        Ok(Typed::Truth(all.unwrap_or(Truth::Constant(true))))
    }

    fn list(&mut self, items: &[ast::Expr]) -> Result<Typed, String> {
        if items.is_empty() {
            return Err("an empty list holds nothing".into());
        }
        let items: Vec<Typed> = items.iter().map(|item| self.typed(item)).collect::<Result<_, _>>()?;
        match items.iter().find(|item| !item.is_like(&items[0])) {
            Some(other) => {
                Err(format!("a list holds {} and {}: one kind only", items[0].kind(), other.kind()))
            }
            None => Ok(Typed::List(items)),
        }
    }

    fn header(&mut self, item: &ast::GetItem, expr: &ast::Expr) -> Result<Typed, String> {
        let name = match (&item.expr, &item.subscript_expr) {
            (ast::Expr::Var(var), ast::Expr::Const(name)) if var.id == "header" => name.value.as_str(),
            (ast::Expr::Var(var), _) if var.id != "header" && self.variable(var.id).is_err() => {
                return self.variable(var.id);
            }
            _ => return Err(self.not_allowed(expr)),
        };
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let valid = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(valid) {
            return Err(format!("{} is no header: header[\"x-name\"] is", self.quoted(expr)));
        }
        if !self.headers.contains(&name) {
            self.headers.push(name.clone());
        }
        Ok(Typed::Text(Text::Header(name)))
    }

    fn call(&mut self, call: &ast::Call, expr: &ast::Expr) -> Result<Typed, String> {
        let ast::CallType::Method(object, method) = call.identify_call() else {
            return Err(self.not_allowed(expr));
        };
        if !["startswith", "endswith", "lower"].contains(&method) {
            return Err(self.not_allowed(expr));
        }
        let Typed::Text(text) = self.typed(object)? else {
            return Err(format!("`.{method}()` is for text, and {} is not text", self.quoted(object)));
        };
        match (method, call.args.as_slice()) {
            ("lower", []) => Ok(Typed::Text(Text::Lower(Box::new(text)))),
            ("startswith" | "endswith", [ast::CallArg::Pos(argument)]) => match self.typed(argument)? {
                Typed::Text(part) if method == "startswith" => {
                    Ok(Typed::Truth(Truth::StartsWith(text, part)))
                }
                Typed::Text(part) => Ok(Typed::Truth(Truth::EndsWith(text, part))),
                other => Err(format!("`.{method}()` takes text, not {}", other.kind())),
            },
            ("lower", _) => Err("`.lower()` takes nothing".into()),
            _ => Err(format!("`.{method}()` takes one text")),
        }
    }

    fn not_allowed(&self, expr: &ast::Expr) -> String {
        format!(
            "{} is not allowed here; allowed are {}, header[\"name\"], numbers, \"text\", {OPERATORS}",
            self.quoted(expr),
            variables()
        )
    }

    fn quoted(&self, expr: &ast::Expr) -> String {
        in_backticks(self.slice(expr))
    }

    /// The part of the source that an expression is; all of it where its parentheses do not tell.
    fn slice(&self, expr: &ast::Expr) -> &str {
        let (start, end) = (leftmost(expr).span().start_offset, expr.span().end_offset);
        match self.text.get(start as usize..end as usize) {
            Some(part) if part.matches('(').count() == part.matches(')').count() => part,
            _ => self.text,
        }
    }
}

/// minijinja's spans of operators begin at the token before them: where an expression begins is
/// told by its first leaf.
fn leftmost<'e, 's>(expr: &'e ast::Expr<'s>) -> &'e ast::Expr<'s> {
    match expr {
        ast::Expr::BinOp(binary) => leftmost(&binary.left),
        ast::Expr::Compare(compare) => leftmost(&compare.expr),
        ast::Expr::GetAttr(attribute) => leftmost(&attribute.expr),
        ast::Expr::GetItem(item) => leftmost(&item.expr),
        ast::Expr::Call(call) => leftmost(&call.expr),
        ast::Expr::Filter(filter) => filter.expr.as_ref().map_or(expr, leftmost),
        ast::Expr::Test(test) => leftmost(&test.expr),
        ast::Expr::IfExpr(conditional) => leftmost(&conditional.true_expr),
        _ => expr,
    }
}

fn variables() -> String {
    VARIABLES.join(", ")
}
