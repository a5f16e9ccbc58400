//! An operator's token, from a file that only its owner reads or from the environment.

use std::path::Path;

use super::principal::{OperatorPrincipal, Role};
use crate::crypto::{random, same, sha256};
use crate::domain::guard::{Guard, stands};
use crate::domain::reason::{Failure, ReasonCode};
use crate::domain::secret::{self, Secret};
use crate::vault::keys::{private, write_private};

/// Characters a token has at least.
const TOKEN_CHARS_MIN: usize = 16;

/// Everybody who may use the operator listener. Holds digests, not tokens.
#[derive(Clone, Debug)]
pub struct Operators(Vec<([u8; 32], OperatorPrincipal)>);

impl Operators {
    /// Loads the tokens: `env` (`BYOA_OPERATOR_TOKEN`, role `security`) where it is set, else the file, which is made on
    /// the first start with mode 0600, with one token of role `security`. Nobody has shown a second factor for that one, so it
    /// has none.
    ///
    /// # Errors
    /// `key.missing`, `key.weak`, `key.permissions`.
    pub fn load(file: &Path, env: Option<&str>) -> Result<Self, Failure> {
        if let Some(token) = env {
            return Self::parse("BYOA_OPERATOR_TOKEN", token);
        }
        if !file.exists() {
            let bytes = random::<32>().map_err(|e| Failure::new(ReasonCode::KeyMissing, e))?;
            write_private(file, &format!("opr_{}\n", hex::encode(bytes)))
                .map_err(|e| Failure::new(ReasonCode::KeyMissing, format!("{}: {e}", file.display())))?;
        }
        private(file)?;
        Self::parse(&file.display().to_string(), Self::read(file)?.expose())
    }

    fn read(file: &Path) -> Result<Secret, Failure> {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::new(ReasonCode::KeyMissing, format!("{}: {e}", file.display())))?;
        Ok(Secret::new(text))
    }

    /// The first token of a file, for the command line.
    ///
    /// # Errors
    /// `key.missing`
    pub fn first_token(file: &Path) -> Result<Secret, Failure> {
        Self::first_token_of(&file.display().to_string(), Self::read(file)?.expose())
    }

    /// The first token of a text with the lines of such a file, for the command line; `origin` is where the text is from.
    ///
    /// # Errors
    /// `key.missing`
    pub fn first_token_of(origin: &str, text: &str) -> Result<Secret, Failure> {
        let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
        let word = line.and_then(|l| l.split_whitespace().next());
        word.map(|w| Secret::new(w.to_owned())).ok_or_else(|| Failure::new(ReasonCode::KeyMissing, format!("{origin}: no token in it")))
    }

    fn parse(origin: &str, text: &str) -> Result<Self, Failure> {
        let weak = |line: usize, why: &str| Failure::new(ReasonCode::KeyWeak, format!("{origin}:{line}: {why}"));
        let mut all = Vec::new();
        for (n, line) in text.lines().map(str::trim).enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            let token = words.next().unwrap_or_default();
            if secret::judge(token, TOKEN_CHARS_MIN).is_err() {
                return Err(weak(n + 1, "the token is too short or a placeholder; use 16 random characters or more"));
            }
            let role = match words.next() {
                None => Role::Security,
                Some(word) => {
                    Role::parse(word).ok_or_else(|| weak(n + 1, "the second word must be viewer, operator, release-manager or security"))?
                }
            };
            let name = words.next().map_or_else(|| format!("{}-{}", role.as_str(), n + 1), str::to_owned);
            // A token by itself is one factor. Whoever hands it out behind another one says so in its line.
            let mfa = match words.next() {
                None | Some("single-factor") => false,
                Some("mfa") => true,
                Some(_) => return Err(weak(n + 1, "the fourth word can only be mfa or single-factor")),
            };
            if words.next().is_some() {
                return Err(weak(n + 1, "a line is TOKEN [ROLE [NAME [mfa]]]; nothing follows"));
            }
            all.push((sha256(token.as_bytes()), OperatorPrincipal::new(name, role, mfa)));
        }
        if all.is_empty() { Err(Failure::new(ReasonCode::KeyMissing, format!("{origin}: no token in it"))) } else { Ok(Self(all)) }
    }

    /// The operator whose token this is; every known one is compared, in constant time.
    ///
    /// # Errors
    /// [`ReasonCode::AdminUnauthenticated`]
    pub fn authenticate(&self, bearer: Option<&str>) -> Result<OperatorPrincipal, ReasonCode> {
        let digest = sha256(bearer.ok_or(ReasonCode::AdminUnauthenticated)?.trim().as_bytes());
        let found = self.0.iter().fold(None, |found, (known, who)| if same(known, &digest) { Some(who) } else { found });
        let anybody = self.0.first().map(|(_, who)| who).filter(|_| !stands(Guard::OperatorKnown));
        found.or(anybody).cloned().ok_or(ReasonCode::AdminUnauthenticated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_come_from_the_file() {
        let all = Operators::parse("f", "# who\nopr_0123456789abcdef viewer ann\nopr_fedcba9876543210\n").unwrap();
        let ann = all.authenticate(Some("opr_0123456789abcdef")).unwrap();
        assert_eq!((ann.name(), ann.role()), ("ann", Role::Viewer));
        assert_eq!(all.authenticate(Some("opr_fedcba9876543210")).unwrap().role(), Role::Security);
        for bad in [None, Some(""), Some("opr_0123456789abcdeg")] {
            assert_eq!(all.authenticate(bad).unwrap_err(), ReasonCode::AdminUnauthenticated);
        }
    }

    #[test]
    fn a_second_factor_is_there_where_the_line_says_so() {
        const TOKEN: &str = "opr_0123456789abcdef";
        for (line, mfa) in [
            ("", false),
            (" security", false),
            (" security bob", false),
            (" security mfa", false),
            (" security bob single-factor", false),
            (" security bob mfa", true),
            (" viewer ann mfa", true),
        ] {
            let all = Operators::parse("f", &format!("{TOKEN}{line}\n")).unwrap();
            assert_eq!(all.authenticate(Some(TOKEN)).unwrap().mfa(), mfa, "{line}");
        }
        for bad in [" security bob MFA", " security bob yes", " security bob mfa mfa"] {
            assert!(Operators::parse("f", &format!("{TOKEN}{bad}\n")).unwrap_err().detail.starts_with("f:1: "), "{bad}");
        }
    }

    #[test]
    fn the_generated_token_has_no_second_factor() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("operator.token");
        let all = Operators::load(&file, None).unwrap();
        let token = Operators::first_token(&file).unwrap();
        let who = all.authenticate(Some(token.expose())).unwrap();
        assert_eq!((who.role(), who.mfa()), (Role::Security, false));
    }

    #[test]
    fn weak_tokens_are_refused_with_their_line() {
        assert_eq!(Operators::parse("f", "short\n").unwrap_err().code, ReasonCode::KeyWeak);
        assert!(Operators::parse("f", "opr_0123456789abcdef king\n").unwrap_err().detail.contains("f:1"));
        assert_eq!(Operators::parse("f", "\n").unwrap_err().code, ReasonCode::KeyMissing);
    }
}
