//! Jinja as transformers runs it: minijinja, brought to the behaviour of jinja2 under Python.
//!
//! What differs and is bridged here: Python's way of writing floats, `json.dumps` behind
//! `tojson`, Python's string methods and its idea of white space, `strftime_now`,
//! `raise_exception`, and transformers' `{% generation %}` blocks (which only mark text and so
//! become plain scopes).
//!
//! Bounds: a render executes at most [`FUEL`] instructions, recursion is limited, and output
//! past [`OUTPUT_BYTES_MAX`] is an error. How large and how deep the values between may become is bounded
//! from outside, by the process that this runs in ([`super::contained`]): what an operator makes cannot be
//! counted here, and an instruction that copies megabytes counts as one.

use super::python;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use std::collections::HashSet;
use std::io::Write;
use std::time::SystemTime;

/// Instructions of one render. A message takes some tens to hundreds.
const FUEL: u64 = 20_000_000;

/// Bytes of one rendered prompt: more than any context holds.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

const NAME: &str = "chat_template";

/// A compiled template.
#[derive(Debug)]
pub(super) struct Jinja {
    environment: Environment<'static>,
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl Jinja {
    /// Compiles the template; the error names the line.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| describe(&error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(python::call_method);
        environment.set_formatter(|out, _, value| {
            if value.is_undefined() {
                return Ok(());
            }
            out.write_str(&python::to_str(value)).map_err(Error::from)
        });
        environment.add_filter("tojson", python::tojson);
        environment.add_filter("string", |value: &Value| python::to_str(value));
        environment.add_filter("trim", python::trim);
        environment.add_filter("length", python::length);
        environment.add_filter("count", python::length);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        environment.add_test("callable", python::is_callable);
        environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
            let message = python::to_str(message);
            Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
        });
        environment
            .add_template_owned(NAME, plain_generation_blocks(&unix_newlines(source)))
            .map_err(|error| describe(&error))?;
        Ok(Self { environment })
    }

    /// The variables that it reads and does not set before.
    pub(super) fn variables(&self) -> Result<HashSet<String>, String> {
        let template = self.environment.get_template(NAME).map_err(|error| describe(&error))?;
        Ok(template.undeclared_variables(false))
    }

    /// Renders with `variables`; `strftime_now` sees `now` (as UTC).
    pub(super) fn render(
        &self,
        variables: serde_json::Map<String, serde_json::Value>,
        now: SystemTime,
    ) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|error| describe(&error))?;
        let strftime_now = Value::from_function(move |format: &str| {
            python::strftime(now, format).map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
        });
        let variables = variables.into_iter().map(|(name, value)| (name, python::from_json(value)));
        let variables = Value::from_pairs(variables.chain([("strftime_now".to_owned(), strftime_now)]));
        let mut output = Bounded::default();
        let rendered = template.render_captured_to(variables, &mut output);
        if output.full {
            return Err(format!("the prompt is longer than {OUTPUT_BYTES_MAX} bytes"));
        }
        rendered.map_err(|error| describe(&error))?;
        String::from_utf8(output.bytes).map_err(|error| error.to_string())
    }
}

/// The message of `raise_exception` as it is, other errors with their line.
fn describe(error: &Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return message.clone();
        }
        cause = inner.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("the template ran for more than {FUEL} instructions");
    }
    error.to_string()
}

/// A buffer that refuses to grow past [`OUTPUT_BYTES_MAX`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.full |= self.bytes.len() + bytes.len() > OUTPUT_BYTES_MAX;
        if self.full {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// jinja2 reads every kind of line end as `\n`.
fn unix_newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// `{% generation %}` becomes `{% with %}`: both scope what is set inside.
fn plain_generation_blocks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        plain.push_str(before);
        rest = tag;
        let name_at = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let (lead, name) = tag.split_at(name_at);
        for (from, to) in [("generation", "with"), ("endgeneration", "endwith")] {
            let Some(after) = name.strip_prefix(from) else { continue };
            if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                plain.push_str(lead);
                plain.push_str(to);
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}
