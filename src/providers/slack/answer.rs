//! What an agent may answer to Slack itself: read into the few forms that Slack documents, written anew from what was read.
//! Floor 2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::installation::AnswerKind;
use crate::wire::json;

/// A modal of a hundred blocks has room in it.
const ANSWER_BYTES_MAX: usize = 32 * 1024;

/// <https://docs.slack.dev/reference/block-kit/block-elements/select-menu-element>
const OPTIONS_MAX: usize = 100;

/// <https://docs.slack.dev/surfaces/modals>
#[derive(Deserialize, Serialize)]
#[serde(tag = "response_action", rename_all = "snake_case", deny_unknown_fields)]
enum Submitted {
    Errors { errors: BTreeMap<String, String> },
    Update { view: Map<String, Value> },
    Push { view: Map<String, Value> },
    Clear {},
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Suggested {
    Options(Options),
    Groups(Groups),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Options {
    options: Vec<Choice>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Groups {
    option_groups: Vec<Group>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Group {
    label: Text,
    options: Vec<Choice>,
}

/// <https://docs.slack.dev/reference/block-kit/composition-objects/option-object>
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    text: Text,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<Text>,
}

/// <https://docs.slack.dev/reference/block-kit/composition-objects/text-object>
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Text {
    r#type: TextType,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    emoji: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verbatim: Option<bool>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum TextType {
    PlainText,
    Mrkdwn,
}

/// The answer, written anew; `None` for anything but one small object of the kind's form.
pub(super) fn read(kind: AnswerKind, body: &[u8]) -> Option<Vec<u8>> {
    if body.len() > ANSWER_BYTES_MAX {
        return None;
    }
    // Two readers could see two objects in one where a name stands twice.
    json::parse(body).ok()?;
    match kind {
        AnswerKind::ViewSubmission => {
            let answer: Submitted = serde_json::from_slice(body).ok()?;
            let fits = match &answer {
                Submitted::Update { view } | Submitted::Push { view } => view.get("type").and_then(Value::as_str) == Some("modal"),
                Submitted::Errors { errors } => !errors.is_empty(),
                Submitted::Clear {} => true,
            };
            if fits { serde_json::to_vec(&answer).ok() } else { None }
        }
        AnswerKind::BlockSuggestion => {
            let answer: Suggested = serde_json::from_slice(body).ok()?;
            let fits = match &answer {
                Suggested::Options(Options { options }) => options.len() <= OPTIONS_MAX,
                Suggested::Groups(Groups { option_groups }) => {
                    option_groups.len() <= OPTIONS_MAX && option_groups.iter().all(|group| group.options.len() <= OPTIONS_MAX)
                }
            };
            if fits { serde_json::to_vec(&answer).ok() } else { None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: AnswerKind, body: &str) -> Option<String> {
        read(kind, body.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_modal_s_answers_are_the_four_that_slack_documents() {
        use AnswerKind::ViewSubmission;
        for body in [
            r#"{"response_action":"errors","errors":{"b1":"too short"}}"#,
            r#"{"response_action":"update","view":{"blocks":[],"type":"modal"}}"#,
            r#"{"response_action":"push","view":{"type":"modal"}}"#,
            r#"{"response_action":"clear"}"#,
        ] {
            assert_eq!(said(ViewSubmission, body).as_deref(), Some(body));
            assert_eq!(said(AnswerKind::BlockSuggestion, body), None, "{body}");
        }
        for body in [
            "",
            "{}",
            "ok",
            "null",
            "[]",
            r#"{"response_action":"clear","text":"x"}"#,
            r#"{"response_action":"clear","response_action":"clear"}"#,
            r#"{"response_action":"delete"}"#,
            r#"{"response_action":"errors","errors":{}}"#,
            r#"{"response_action":"errors","errors":{"b1":1}}"#,
            r#"{"response_action":"errors"}"#,
            r#"{"response_action":"update","view":[]}"#,
            r#"{"response_action":"update","view":{"type":"home"}}"#,
            r#"{"response_action":"push","view":{"type":"modal"},"view_id":"V1"}"#,
            r#"{"method":"sendMessage","chat_id":1,"text":"x"}"#,
        ] {
            assert_eq!(said(ViewSubmission, body), None, "{body}");
        }
    }

    #[test]
    fn a_menu_s_answers_are_options_or_groups_of_them() {
        use AnswerKind::BlockSuggestion;
        let option = r#"{"text":{"type":"plain_text","text":"One"},"value":"1"}"#;
        for body in [
            r#"{"options":[]}"#.to_owned(),
            format!(r#"{{"options":[{option}]}}"#),
            format!(r#"{{"option_groups":[{{"label":{{"type":"plain_text","text":"All","emoji":true}},"options":[{option}]}}]}}"#),
        ] {
            assert_eq!(said(BlockSuggestion, &body), Some(body));
        }
        for body in [
            "{}".to_owned(),
            r#"{"options":{}}"#.to_owned(),
            format!(r#"{{"options":[{option}],"text":"x"}}"#),
            r#"{"options":[],"option_groups":[]}"#.to_owned(),
            r#"{"options":[{"text":"One","value":"1"}]}"#.to_owned(),
            r#"{"options":[{"text":{"type":"html","text":"One"},"value":"1"}]}"#.to_owned(),
            format!(r#"{{"options":[{}]}}"#, vec![option; 101].join(",")),
        ] {
            assert_eq!(said(BlockSuggestion, &body), None, "{body}");
        }
    }

    #[test]
    fn a_large_answer_is_none() {
        let body = |n| format!(r#"{{"response_action":"update","view":{{"private_metadata":"{}","type":"modal"}}}}"#, "x".repeat(n));
        assert!(said(AnswerKind::ViewSubmission, &body(ANSWER_BYTES_MAX - 100)).is_some());
        assert!(said(AnswerKind::ViewSubmission, &body(ANSWER_BYTES_MAX)).is_none());
    }
}
