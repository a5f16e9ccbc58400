//! How answers look: tables for people, JSON and YAML for programs.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

use super::{CliError, Output};
use crate::domain::reason::ReasonCode;

/// Prints a value as JSON or YAML; `false` when a table was asked for.
pub(super) fn raw(value: &Value, output: Output) -> Result<bool, CliError> {
    let text = match output {
        Output::Table => return Ok(false),
        Output::Json => serde_json::to_string_pretty(value).map_err(|e| CliError::Unable(e.to_string()))?,
        Output::Yaml => serde_yaml::to_string(value).map_err(|e| CliError::Unable(e.to_string()))?,
    };
    anstream::println!("{}", text.trim_end());
    Ok(true)
}

/// A table with these columns.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// One value in a cell: text as it is, everything else as compact JSON. Control characters are escaped: what a provider
/// sent must not move a terminal's cursor.
pub(super) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `1 file`, `2 policies`.
pub(super) fn counted(number: usize, what: &str) -> String {
    match (number, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {what}s"),
    }
}

/// `byoa reasons`
pub(super) fn reasons(output: Output) -> Result<(), CliError> {
    let items: Vec<Value> = ReasonCode::ALL
        .iter()
        .map(|c| {
            json!({"code": c, "status": c.status(), "retryable": c.retryable(), "policies": c.usable_by_policies(), "meaning": c.meaning()})
        })
        .collect();
    if raw(&json!({"items": items, "next": null}), output)? {
        return Ok(());
    }
    let rows = ReasonCode::ALL.iter().map(|c| {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        vec![c.as_str().to_owned(), c.status().to_string(), yes(c.retryable()), yes(c.usable_by_policies()), c.meaning().to_owned()]
    });
    anstream::println!("{}", table(&["code", "status", "again", "policies", "meaning"], rows));
    Ok(())
}
