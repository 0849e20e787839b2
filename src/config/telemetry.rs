//! What a server tells of its requests: `telemetry` and `access_log` of `server`.

use super::providers::{base_url, headers, is_loopback};
use super::read::Reader;
use super::tree::Node;
use super::{AccessLog, Telemetry};

const KEYS: [&str; 5] = ["otlp_endpoint", "headers", "headers_env", "sample", "service_name"];
/// Where a receiver's key may be.
const KEY_PLACES: &str = "`headers_env`";

pub fn telemetry(reader: &mut Reader, node: &Node) -> Option<Telemetry> {
    let fields = reader.fields(node, "`telemetry`", &KEYS)?;
    let mut telemetry =
        Telemetry { headers: headers(reader, &fields, "`telemetry`", KEY_PLACES), ..Telemetry::default() };
    telemetry.otlp_endpoint =
        fields.get("otlp_endpoint").and_then(|node| base_url(reader, node, "`otlp_endpoint`", KEY_PLACES));
    if let Some(node) = fields.get("headers_env")
        && let Some(name) = reader.variable(node, "`headers_env`")
    {
        if !reader.variable_is_set(name) {
            reader.warn(node.line, format!("the environment variable {name} is not set: no headers"));
        }
        if telemetry.otlp_endpoint.as_ref().is_some_and(|url| url.starts_with("http://") && !is_loopback(url))
        {
            let message =
                "the headers of `headers_env` travel unencrypted, as `otlp_endpoint` begins with http://";
            reader.warn(node.line, message);
        }
        telemetry.headers_env = Some(name.to_owned());
    }
    telemetry.sample = fields.get("sample").and_then(|node| reader.number(node, "`sample`", 0.0..=1.0));
    telemetry.service_name =
        fields.get("service_name").and_then(|node| reader.text(node, "`service_name`")).map(str::to_owned);
    Some(telemetry)
}

pub fn access_log(reader: &mut Reader, node: &Node) -> Option<AccessLog> {
    Some(match reader.text(node, "`access_log`")? {
        "stdout" => AccessLog::Stdout,
        "stderr" => AccessLog::Stderr,
        path => AccessLog::File(reader.folder.join(path)),
    })
}
