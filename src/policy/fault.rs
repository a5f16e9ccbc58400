//! What is wrong with a set of policies: the rule that is broken, the place, and every fault of a load together. Floor 5.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

/// What a fault is a fault of. Stable words, for programs that sort findings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A file or folder cannot be taken: unreadable, too large, not UTF-8, in the wrong place.
    File,
    /// The schema is not this build's.
    Schema,
    /// It is not Cedar, or not YAML.
    Syntax,
    /// It does not fit the schema, or can never apply.
    Types,
    /// A file without a policy.
    Empty,
    /// Templates are not used.
    Template,
    /// `@id` is absent, unfit or taken.
    Id,
    /// `@reason` is absent.
    Reason,
    /// `@code` is absent, unknown or on a permit.
    Code,
    /// An annotation that does not exist.
    Annotation,
    /// `@mode`
    Mode,
    /// `@until`
    Until,
    /// A permit for everybody.
    Unconditional,
    /// An org's file that reaches beyond its org.
    OrgScope,
    /// A forbid that could err.
    MayErr,
    /// A permit of what the gateway's own bounds refuse.
    Envelope,
    /// A decision table that does not make sense.
    Table,
    /// The set is not the one that `policies.lock` describes.
    Lock,
    /// A text that is larger or deeper than policies may be.
    Limit,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 19] = [
        Self::File,
        Self::Schema,
        Self::Syntax,
        Self::Types,
        Self::Empty,
        Self::Template,
        Self::Id,
        Self::Reason,
        Self::Code,
        Self::Annotation,
        Self::Mode,
        Self::Until,
        Self::Unconditional,
        Self::OrgScope,
        Self::MayErr,
        Self::Envelope,
        Self::Table,
        Self::Lock,
        Self::Limit,
    ];

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Schema => "schema",
            Self::Syntax => "syntax",
            Self::Types => "types",
            Self::Empty => "empty",
            Self::Template => "template",
            Self::Id => "id",
            Self::Reason => "reason",
            Self::Code => "code",
            Self::Annotation => "annotation",
            Self::Mode => "mode",
            Self::Until => "until",
            Self::Unconditional => "unconditional",
            Self::OrgScope => "org-scope",
            Self::MayErr => "may-err",
            Self::Envelope => "envelope",
            Self::Table => "table",
            Self::Lock => "lock",
            Self::Limit => "limit",
        }
    }

    /// What it asks, one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::File => "A file can be read, is UTF-8 text of bounded size and stands in its place.",
            Self::Schema => "The schema file is the one that this build was made with.",
            Self::Syntax => "A policy file is Cedar, a table is YAML.",
            Self::Types => "A policy fits the schema and can match.",
            Self::Empty => "A policy file holds at least one policy.",
            Self::Template => "Policies are static: what varies is entity data.",
            Self::Id => "Every policy has an `@id` of its own, a name that people can say; an org's begins with `org.<org>.`.",
            Self::Reason => "Every policy has a `@reason`, one sentence for people.",
            Self::Code => "Every forbid has a `@code`, one of the reason codes that policies may use, and no permit has one.",
            Self::Annotation => "Only annotations that exist are used.",
            Self::Mode => "`@mode` is \"enforce\" or left out.",
            Self::Until => "`@until` is a time, and what has ended is removed.",
            Self::Unconditional => "A permit has a scope or a condition.",
            Self::OrgScope => {
                "An org's file holds forbids whose scope names that org, and names actions of `Deliver` and `EnterRollout` only."
            }
            Self::MayErr => "A forbid cannot err: it compares and does not compute.",
            Self::Envelope => "A permit permits nothing that the gateway's own bounds refuse.",
            Self::Table => "A decision table asks questions that the schema knows, and holds.",
            Self::Lock => "The policy files are the ones that `policies.lock` describes.",
            Self::Limit => "A policy file is of bounded size, and a policy of bounded depth and number of operators.",
        }
    }
}

impl Rule {
    /// True where messages of this rule may repeat text of the file that is at fault.
    const fn quotes(self) -> bool {
        match self {
            Self::Syntax
            | Self::Types
            | Self::Id
            | Self::Code
            | Self::Annotation
            | Self::Until
            | Self::MayErr
            | Self::Table
            | Self::Lock
            | Self::Envelope => true,
            Self::File
            | Self::Schema
            | Self::Empty
            | Self::Template
            | Self::Reason
            | Self::Mode
            | Self::Unconditional
            | Self::OrgScope
            | Self::Limit => false,
        }
    }
}

/// A fault as the gateway tells it in its API, audit and log: where it is and which rule is broken, and no text of the file.
/// The file may be another one than its author believes, and whoever reads the API may not be allowed to read it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Told {
    /// The file.
    pub file: String,
    /// The line, from 1; 1 where the whole file is meant.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters it is about; 0 where the whole file is meant.
    pub length: usize,
    /// The rule that is broken.
    pub rule: Rule,
    /// One sentence that holds nothing of the file's text.
    pub message: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.rule.as_str(), self.message)
    }
}

/// One fault in one place, for a command that prints it where the files are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Diagnostic {
    /// The file.
    pub file: String,
    /// The line, from 1; 1 where the whole file is meant.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong, one sentence.
    pub message: String,
    /// The line itself.
    pub source_line: Option<String>,
    /// How many characters it is about; 0 where the whole file is meant.
    pub length: usize,
    /// What it is a fault of.
    pub rule: Rule,
    /// The orgs whose files are at fault, sorted; none where the platform's are.
    #[serde(skip)]
    pub orgs: Vec<OrgId>,
}

impl Diagnostic {
    /// A fault of a file as a whole.
    pub(super) fn of_file(rule: Rule, file: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { file: file.to_string(), line: 1, column: 1, length: 0, rule, message: message.to_string(), source_line: None, orgs: vec![] }
    }

    /// The same as a fault of the files of these orgs.
    #[must_use]
    pub(super) fn of_orgs(self, orgs: impl IntoIterator<Item = OrgId>) -> Self {
        let mut orgs: Vec<OrgId> = orgs.into_iter().collect();
        orgs.sort_unstable();
        orgs.dedup();
        Self { orgs, ..self }
    }

    /// The fault without any text of the file.
    pub fn told(&self) -> Told {
        let Self { file, line, column, length, rule, message, .. } = self;
        let message = if rule.quotes() { rule.meaning().to_owned() } else { message.clone() };
        Told { file: file.clone(), line: *line, column: *column, length: *length, rule: *rule, message }
    }

    /// A fault at a byte range of a text. What reaches over several lines is shown to the end of its first.
    pub(super) fn at(rule: Rule, file: &str, text: &str, range: Range<usize>, message: String) -> Self {
        let Range { start: offset, end } = range;
        let length = text.get(offset..end).and_then(|about| about.lines().next()).map_or(1, |line| line.chars().count().max(1));
        let before = text.get(..offset).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        let source_line = text.get(start..).and_then(|rest| rest.lines().next()).map(str::to_owned);
        Self { file: file.to_owned(), line, column, length, rule, message, source_line, orgs: vec![] }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// The law was not loaded. Prints one line for each fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadError {
    /// `policy.missing`, `policy.invalid` or `policy.too_complex`.
    pub code: ReasonCode,
    /// Every fault found, in order of place.
    pub diagnostics: Vec<Diagnostic>,
}

impl LoadError {
    pub(super) fn new(code: ReasonCode, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort();
        diagnostics.dedup();
        let too_complex = code == ReasonCode::PolicyInvalid && diagnostics.iter().any(|fault| fault.rule == Rule::Limit);
        Self { code: if too_complex { ReasonCode::PolicyTooComplex } else { code }, diagnostics }
    }
}

impl LoadError {
    /// The faults without any text of the files.
    pub fn told(&self) -> Vec<Told> {
        self.diagnostics.iter().map(Diagnostic::told).collect()
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}
