//! How large and how deep the text of a policy may be. The text is measured before Cedar reads it, because Cedar's parser,
//! validator and evaluator call themselves for each level of an expression: a text of a few kilobytes would use up the stack
//! of a thread, which ends the process. Never judges what a policy says. Floor 5.

use std::ops::Range;

use crate::config::PolicyTextLimits;

/// The limits of one text, and who sets them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    pub limits: PolicyTextLimits,
    /// Settings can raise them.
    raisable: bool,
}

impl Bounds {
    /// Those of an org's file. They are fixed: the file is the org's own text.
    pub const ORG: Self = Self { limits: PolicyTextLimits { nesting: 64, operators: 1_000, file_bytes: 64 * 1024 }, raisable: false };

    /// Those of the platform's files.
    pub const fn platform(limits: PolicyTextLimits) -> Self {
        Self { limits, raisable: true }
    }

    /// The fault of a file that is too large.
    pub fn too_large(&self) -> String {
        format!("the file is larger than {} bytes: make several files of it{}", self.limits.file_bytes, self.advice("file_bytes"))
    }

    fn advice(&self, key: &str) -> String {
        if self.raisable { format!(", or allow more with policies.platform_limits.{key}") } else { String::new() }
    }
}

/// The stack that reading takes whatever the text is.
const BASE_BYTES: usize = 1024 * 1024;
/// The stack for one level of brackets. Cedar's parser uses 16 to 32 KiB for one.
const NESTING_BYTES: usize = 64 * 1024;
/// The stack for one operator: each can be the parent of the one before. Cedar's evaluator uses 4 to 8 KiB for one.
const OPERATOR_BYTES: usize = 16 * 1024;
/// The stack that Cedar's evaluator wants to be left, and what calls it.
const EVALUATION_BYTES: usize = 256 * 1024;

/// One place where a text goes beyond its limits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Excess {
    /// The token that is one too many, in bytes.
    pub range: Range<usize>,
    /// What is too large, one sentence.
    pub message: String,
}

/// Measures a text of policies. Gives the number of levels that its deepest expression can have.
///
/// # Errors
/// The first [`Excess`]: what follows it can be as large again.
pub(super) fn measured(text: &str, bounds: Bounds) -> Result<usize, Excess> {
    let mut scan = Scan { bounds, frames: vec![Frame::default()], open: 0, deepest: 0, operators: 0, levels: 0 };
    let mut tokens = Tokens { text, at: 0 };
    let mut after_operand = false;
    while let Some((token, range)) = tokens.next() {
        after_operand = scan.token(token, after_operand).map_err(|message| Excess { range, message })?;
    }
    Ok(scan.levels)
}

/// Gives `work` the stack that reading, validating and showing a text within these limits takes.
///
/// Cedar's validator finds nothing wrong with an expression for which the stack is too short, so a policy that does not fit the
/// schema would pass: whoever reads policies calls this.
pub(super) fn with_room<T>(limits: &PolicyTextLimits, work: impl FnOnce() -> T) -> T {
    let nesting = limits.nesting.max(Bounds::ORG.limits.nesting).saturating_mul(NESTING_BYTES);
    let operators = limits.operators.max(Bounds::ORG.limits.operators).saturating_mul(OPERATOR_BYTES);
    let bytes = BASE_BYTES.saturating_add(nesting).saturating_add(operators);
    stacker::maybe_grow(bytes, bytes, work)
}

/// The same for every text that any settings let through.
pub fn with_most_room<T>(work: impl FnOnce() -> T) -> T {
    with_room(&PolicyTextLimits::MOST, work)
}

/// Gives `work` the stack that evaluating expressions of so many levels takes. Where the thread has it, this is one comparison.
pub(super) fn with_room_to_evaluate<T>(levels: usize, work: impl FnOnce() -> T) -> T {
    let bytes = EVALUATION_BYTES.saturating_add(levels.saturating_mul(OPERATOR_BYTES));
    stacker::maybe_grow(bytes, bytes, work)
}

/// What one pair of brackets holds; the first one is the text itself.
#[derive(Default)]
struct Frame {
    /// Each `if` reaches to the end of its brackets, or to a comma: the next one stands inside it.
    ifs: usize,
    /// Attributes, calls and names in a row.
    chain: usize,
}

struct Scan {
    bounds: Bounds,
    frames: Vec<Frame>,
    /// Brackets and `if`s that are open.
    open: usize,
    /// The most that were open in this policy.
    deepest: usize,
    /// Operators of this policy.
    operators: usize,
    /// The most of both together in one policy.
    levels: usize,
}

impl Scan {
    /// Says whether the token can end an operand, so that a `[` behind it reads an attribute.
    fn token(&mut self, token: Token, after_operand: bool) -> Result<bool, String> {
        match token {
            Token::Open { index } => {
                if index && after_operand {
                    self.link()?;
                    self.operator()?;
                }
                self.frames.push(Frame::default());
                self.deeper()?;
            }
            Token::Close => {
                if self.frames.len() > 1
                    && let Some(closed) = self.frames.pop()
                {
                    self.open -= closed.ifs + 1;
                }
            }
            Token::Comma => self.part_ends(),
            Token::End => {
                // Cedar reads on behind a semicolon wherever it stands.
                self.frames = vec![Frame::default()];
                (self.open, self.deepest, self.operators) = (0, 0, 0);
            }
            Token::If => {
                self.operator()?;
                if let Some(frame) = self.frames.last_mut() {
                    frame.ifs += 1;
                }
                self.deeper()?;
            }
            Token::Dot => {
                self.link()?;
                self.operator()?;
            }
            Token::Colons => self.link()?,
            // Several conditions are one: Cedar joins them.
            Token::Operator | Token::Condition => {
                self.chain_ends();
                self.operator()?;
            }
            Token::Between => self.chain_ends(),
            Token::Operand => {}
        }
        Ok(matches!(token, Token::Operand | Token::Close))
    }

    fn chain_ends(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.chain = 0;
        }
    }

    fn part_ends(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            self.open -= frame.ifs;
            *frame = Frame::default();
        }
    }

    fn deeper(&mut self) -> Result<(), String> {
        self.open += 1;
        self.deepest = self.deepest.max(self.open);
        self.note();
        let most = self.bounds.limits.nesting;
        if self.open > most {
            return Err(self.said(&format!("this nests deeper than {most} levels of brackets and `if`"), "nesting"));
        }
        Ok(())
    }

    fn link(&mut self) -> Result<(), String> {
        let most = self.bounds.limits.nesting;
        let chain = self.frames.last_mut().map_or(0, |frame| {
            frame.chain += 1;
            frame.chain
        });
        if chain > most {
            return Err(self.said(&format!("more than {most} attributes, calls or names in a row"), "nesting"));
        }
        Ok(())
    }

    fn operator(&mut self) -> Result<(), String> {
        self.operators += 1;
        self.note();
        let most = self.bounds.limits.operators;
        if self.operators > most {
            return Err(self.said(&format!("the policy has more than {most} operators"), "operators"));
        }
        Ok(())
    }

    /// What is too much, and what can be done about it.
    fn said(&self, what: &str, key: &str) -> String {
        format!("{what}: make several policies of it{}", self.bounds.advice(key))
    }

    fn note(&mut self) {
        self.levels = self.levels.max(self.operators + self.deepest);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    /// `(`, `{` or, with `index`, `[`.
    Open {
        index: bool,
    },
    /// `)`, `}` or `]`.
    Close,
    Comma,
    /// `;`
    End,
    If,
    /// `when` and `unless`.
    Condition,
    /// `.`
    Dot,
    /// `::`
    Colons,
    Operator,
    /// What stands between operands and is no operator.
    Between,
    /// A name, a number or a text.
    Operand,
}

/// The tokens of a text as Cedar cuts them, as far as limits ask.
struct Tokens<'t> {
    text: &'t str,
    at: usize,
}

impl Tokens<'_> {
    fn rest(&self) -> &[u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// How many bytes from here are such.
    fn run(&self, such: impl Fn(u8) -> bool) -> usize {
        let rest = self.rest();
        rest.iter().position(|byte| !such(*byte)).unwrap_or(rest.len())
    }

    /// The bytes of the text in quotes that begins here. One that does not end takes the rest: Cedar reads nothing behind it.
    fn quoted(&self) -> usize {
        let rest = self.rest();
        let mut escaped = false;
        for (at, byte) in rest.iter().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return at + 1,
                _ => {}
            }
        }
        rest.len()
    }

    fn next(&mut self) -> Option<(Token, Range<usize>)> {
        loop {
            let (token, length) = match self.rest() {
                [] => return None,
                // A carriage return alone ends a comment too.
                [b'/', b'/', ..] => (None, self.run(|byte| byte != b'\n' && byte != b'\r')),
                [b'"', ..] => (Some(Token::Operand), self.quoted()),
                [b'(' | b'{', ..] => (Some(Token::Open { index: false }), 1),
                [b'[', ..] => (Some(Token::Open { index: true }), 1),
                [b')' | b'}' | b']', ..] => (Some(Token::Close), 1),
                [b',', ..] => (Some(Token::Comma), 1),
                [b';', ..] => (Some(Token::End), 1),
                [b'.', ..] => (Some(Token::Dot), 1),
                [b':', b':', ..] => (Some(Token::Colons), 2),
                [b':' | b'@' | b'?', ..] => (Some(Token::Between), 1),
                [b'&', b'&', ..] | [b'|', b'|', ..] | [b'=' | b'!' | b'<' | b'>', b'=', ..] => (Some(Token::Operator), 2),
                [b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'&' | b'|' | b'=', ..] => (Some(Token::Operator), 1),
                [first, ..] if first.is_ascii_alphanumeric() || *first == b'_' => {
                    let length = self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                    let token = match self.rest().get(..length).unwrap_or_default() {
                        b"if" => Token::If,
                        b"when" | b"unless" => Token::Condition,
                        b"in" | b"has" | b"like" | b"is" => Token::Operator,
                        b"then" | b"else" => Token::Between,
                        _ => Token::Operand,
                    };
                    (Some(token), length)
                }
                // White space, and what is in no policy.
                _ => (None, 1),
            };
            let start = self.at;
            self.at += length.max(1);
            if let Some(token) = token {
                return Some((token, start..self.at));
            }
        }
    }
}

#[cfg(test)]
mod tests;
