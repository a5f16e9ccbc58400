//! `byoa policy prove` with a real solver: the law that ships is proved, and each mistake planted in a copy of it is found,
//! with a request on which Cedar itself, asked here once more, answers as the proof says. Nothing else than *proved* is 0.

use std::path::Path;
use std::process::Command;

/// Runs the command on a folder of policies: exit code, standard output, standard error.
fn prove(policies: &Path, solver: Option<&Path>, args: &[&str]) -> (i32, String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
    command.current_dir(root).args(["policy", "prove", "--schema", "schemas/gateway.cedarschema", "--policies"]).arg(policies).args(args);
    match solver {
        Some(solver) => command.env("CVC5", solver),
        None => command.env_remove("CVC5"),
    };
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[cfg(not(feature = "prove"))]
#[test]
fn a_build_without_a_prover_says_so() {
    let said = prove("policies".as_ref(), None, &[]);
    assert_eq!(said, (2, String::new(), "byoa: this build has no prover: `cargo run --features prove -- policy prove`\n".into()));
}

#[cfg(feature = "prove")]
mod with_a_solver {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::str::FromStr as _;

    use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request, Schema};
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    const SENDING: &str = "platform/20-sending.cedar";
    const CREDENTIALS: &str = "platform/30-credentials.cedar";
    const ROLLOUT: &str = "platform/40-rollout.cedar";
    const CHANGES: &str = "platform/60-changes.cedar";

    /// A copy of the law that ships, to make mistakes in.
    struct Law(TempDir);

    impl Law {
        fn shipped() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("platform")).unwrap();
            for entry in std::fs::read_dir("policies/platform").unwrap() {
                let path = entry.unwrap().path();
                std::fs::copy(&path, folder.path().join("platform").join(path.file_name().unwrap())).unwrap();
            }
            Self(folder)
        }

        /// Takes a piece of a policy's text out, or puts another in its place.
        fn edit(self, file: &str, id: &str, old: &str, new: &str) -> Self {
            let path = self.0.path().join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            let from = text.find(&format!("@id(\"{id}\")")).unwrap_or_else(|| panic!("no {id} in {file}"));
            let to = text[from + 1..].find("@id(").map_or(text.len(), |next| from + 1 + next);
            let policy = &text[from..to];
            assert_eq!(policy.matches(old).count(), 1, "`{old}` in {policy}");
            std::fs::write(&path, [&text[..from], &policy.replace(old, new), &text[to..]].concat()).unwrap();
            self
        }

        fn with(self, policy: &str) -> Self {
            std::fs::write(self.0.path().join("platform/99-planted.cedar"), policy).unwrap();
            self
        }

        /// Everything in it that is not so; the command must say 1.
        fn violations(&self) -> Vec<Value> {
            let (code, report, errors) = prove(self.0.path(), None, &["--format", "json"]);
            assert_eq!(code, 1, "{errors}\n{report}");
            assert!(errors.contains("not proved: ") && errors.contains(" violated"), "{errors}");
            let report: Value = serde_json::from_str(&report).unwrap();
            assert_eq!((&report["proved"], &report["undecided"]), (&false.into(), &0.into()));
            let proofs = report["proofs"].as_array().unwrap().clone();
            proofs.into_iter().filter(|proof| proof["outcome"] == "violated").collect()
        }

        /// The violations, each as `check: kind of request: policies`, after those with a request were asked again.
        fn found(&self) -> String {
            let lines = self.violations().into_iter().map(|proof| {
                let violation = &proof["violation"];
                let mut policies: Vec<String> = violation["policies"].as_array().unwrap().iter().map(|p| self.place(p)).collect();
                if policies.is_empty() {
                    policies.push("no policy".into());
                }
                let kind = match &proof["environment"] {
                    Value::Null => "every kind of request".to_owned(),
                    kind => ["principal", "action", "resource"].map(|part| kind[part].as_str().unwrap()).join(" "),
                };
                let asked = match &violation["witness"] {
                    Value::Null => String::new(),
                    witness => self.asked_again(proof["check"].as_str().unwrap(), witness),
                };
                format!("{}: {kind}: {}{asked}", proof["check"].as_str().unwrap(), policies.join(", "))
            });
            lines.collect::<Vec<_>>().join("\n")
        }

        /// A policy with its place, which must be its `@id`'s.
        fn place(&self, policy: &Value) -> String {
            let (id, file) = (policy["id"].as_str().unwrap(), policy["file"].as_str().unwrap());
            let line = usize::try_from(policy["line"].as_u64().unwrap()).unwrap();
            let text = std::fs::read_to_string(file).unwrap();
            assert!(text.lines().nth(line - 1).unwrap().contains(&format!("@id(\"{id}\")")), "{file}:{line} is not {id}");
            id.to_owned()
        }

        /// What Cedar says of the request, without any of the gateway's code in between.
        fn asked_again(&self, check: &str, witness: &Value) -> String {
            let (schema, _) = Schema::from_cedarschema_str(&std::fs::read_to_string("schemas/gateway.cedarschema").unwrap()).unwrap();
            let asked = &witness["request"];
            let uid = |key: &str| EntityUid::from_str(asked[key].as_str().unwrap()).unwrap();
            let action = EntityUid::from_str(&format!("Byoa::Action::\"{}\"", asked["action"].as_str().unwrap())).unwrap();
            let context = Context::from_json_value(asked["context"].clone(), Some((&schema, &action))).unwrap();
            let request = Request::new(uid("principal"), action, uid("resource"), context, Some(&schema)).unwrap();
            let entities = Entities::from_json_value(asked["entities"].clone(), Some(&schema)).unwrap();
            let say = |text: &str| {
                let policies = PolicySet::from_str(text).unwrap();
                let answer = Authorizer::new().is_authorized(&request, &policies, &entities);
                assert_eq!(answer.diagnostics().errors().count(), 0);
                answer.decision() == Decision::Allow
            };
            let files =
                std::fs::read_dir(self.0.path().join("platform")).unwrap().map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap());
            let policies = say(&files.collect::<Vec<_>>().join("\n"));
            let bound = |name: &str| say(&std::fs::read_to_string(format!("src/policy/invariants/{name}.cedar")).unwrap());
            match check {
                "envelope" => assert!(policies && !bound("envelope")),
                "floor" => assert!(!policies && bound("floor")),
                other => panic!("{other} has no request to show"),
            }
            assert_eq!(witness["policies"]["allow"], policies);
            assert_eq!(witness["gateway"]["allow"], false);
            let row = witness["row"].as_str().unwrap();
            let row: serde_yaml::Value = serde_yaml::from_str(row).unwrap_or_else(|e| panic!("{e}\n{row}"));
            assert_eq!(row[0]["ask"].as_str(), asked["action"].as_str());
            format!(": asked again, {}", witness["gateway"]["code"].as_str().unwrap())
        }
    }

    #[test]
    fn the_law_that_ships_is_proved() {
        let (code, said, errors) = prove("policies".as_ref(), None, &[]);
        assert_eq!((code, errors.as_str()), (0, ""), "{said}");
        insta::with_settings!({filters => vec![
            (r"\d+ ms", "[time]"), (r"cvc5 \d+\.\d+\.\d+", "cvc5 [version]"), (r"version [0-9a-f]{64}", "version [digest]"),
        ]}, { insta::assert_snapshot!(said.trim_end()) });
    }

    #[test]
    fn a_forgotten_org_is_found() {
        let law = Law::shipped().edit(SENDING, "send.byoa", " &&\n  principal.org == resource.org", "");
        insta::assert_snapshot!(law.found(), @"envelope: OrgAgent SendMessage ByoaInstallation: send.byoa: asked again, policy.outside_envelope");
        let (code, said, _) = prove(law.0.path(), None, &[]);
        assert_eq!(code, 1);
        for words in [
            "VIOLATED   within the envelope   OrgAgent SendMessage ByoaInstallation   ",
            "    send.byoa   ",
            "20-sending.cedar:3\n  for example\n    OrgAgent::\"org-agent-1\" SendMessage ByoaInstallation::\"byoa-installation-1\"\n",
            "  asked again   of the policies alone: allow, by send.byoa\n",
            "of the gateway:        refuse, policy.outside_envelope, by send.byoa\n",
            "    want: {decision: refuse, code: policy.no_permit, policies: []}\n",
        ] {
            assert!(said.contains(words), "`{words}` in\n{said}");
        }
    }

    #[test]
    fn a_kill_switch_that_kills_nothing_is_found() {
        let law = Law::shipped().edit(CREDENTIALS, "fallback.opt-in", "  context.flag.enabled &&\n", "").edit(
            ROLLOUT,
            "rollout.enter.canary",
            "  resource.enabled &&\n",
            "",
        );
        insta::assert_snapshot!(law.found(), @"
        envelope: ByoaInstallation UseFallback PlatformInstallation: fallback.opt-in: asked again, policy.outside_envelope
        envelope: Org EnterRollout Flag: rollout.enter.canary: asked again, policy.outside_envelope
        ");
    }

    #[test]
    fn a_permit_for_too_much_is_found() {
        let law = Law::shipped().with(
            "@id(\"planted\") @reason(\"Agents of orgs may do what it takes\")\n\
             permit (principal is Byoa::OrgAgent, action in Byoa::Action::\"Deliver\", resource);\n",
        );
        insta::assert_snapshot!(law.found(), @"
        envelope: OrgAgent CallProviderMethod ByoaInstallation: planted: asked again, policy.outside_envelope
        envelope: OrgAgent CallProviderMethod PlatformInstallation: planted: asked again, policy.outside_envelope
        envelope: OrgAgent SendMessage ByoaInstallation: planted: asked again, policy.outside_envelope
        envelope: OrgAgent SendMessage PlatformInstallation: planted: asked again, policy.outside_envelope
        redundant: every kind of request: send.byoa
        redundant: every kind of request: send.platform.org-agent
        redundant: every kind of request: call.byoa
        redundant: every kind of request: call.platform.org-agent
        ");
    }

    #[test]
    fn a_missing_second_factor_is_found() {
        let law = Law::shipped().edit(CHANGES, "rollout.promote.security", "  principal.mfa &&\n", "");
        insta::assert_snapshot!(law.found(), @"envelope: Operator PromoteRollout Flag: rollout.promote.security: asked again, policy.outside_envelope");
    }

    #[test]
    fn what_must_be_permitted_and_is_not_is_found() {
        let law = Law::shipped().edit(
            CHANGES,
            "operate.revoke.security",
            "when { principal.mfa }",
            "when { principal.mfa && resource is Byoa::OrgAgent }",
        );
        insta::assert_snapshot!(law.found(), @"
        floor: Operator RevokeSecret ByoaInstallation: no policy: asked again, policy.no_permit
        floor: Operator RevokeSecret ByoaProfile: no policy: asked again, policy.no_permit
        floor: Operator RevokeSecret PlatformAgent: no policy: asked again, policy.no_permit
        floor: Operator RevokeSecret PlatformInstallation: no policy: asked again, policy.no_permit
        floor: Operator RevokeSecret PlatformProfile: no policy: asked again, policy.no_permit
        ");
        let law = Law::shipped().with(
            "@id(\"planted\") @reason(\"Nobody touches a canary\") @code(\"policy.forbidden\")\n\
             forbid (principal, action, resource is Byoa::Flag) when { resource.stage == Byoa::Stage::\"canary\" };\n",
        );
        insta::assert_snapshot!(law.found(), @"
        floor: Operator RollBack Flag: planted: asked again, policy.forbidden
        redundant: every kind of request: rollout.enter.canary
        ");
    }

    #[test]
    fn what_is_dead_or_redundant_is_found() {
        let law = Law::shipped().with(
            "@id(\"planted.dead\") @reason(\"An org that is in the canary and is not\")\n\
             permit (principal in Byoa::Role::\"security\", action == Byoa::Action::\"RollBack\", resource is Byoa::Flag)\n\
             when { resource.canary.contains(Byoa::Org::\"acme\") && !resource.canary.containsAny([Byoa::Org::\"acme\"]) };\n\
             @id(\"planted.twice\") @reason(\"Operators connect installations of whoever is not suspended\")\n\
             permit (principal in Byoa::Role::\"operator\", action == Byoa::Action::\"ConnectInstallation\", resource is Byoa::Org)\n\
             unless { resource.suspended };\n",
        );
        insta::assert_snapshot!(law.found(), @"
        dead: every kind of request: planted.dead
        redundant: every kind of request: planted.twice
        ");
    }

    /// A program that plays the solver.
    fn script(folder: &TempDir, lines: &str) -> PathBuf {
        let path = folder.path().join("solver");
        let text = format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'This is cvc5 version 9.9.9'; exit 0; fi\n{lines}\n");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn no_solver_is_no_proof() {
        for (solver, why) in [("/nonexistent", "there is no solver: /nonexistent: "), ("/bin/true", "/bin/true is no cvc5")] {
            let (code, said, errors) = prove("policies".as_ref(), Some(solver.as_ref()), &[]);
            assert_eq!((code, said.as_str()), (2, ""));
            assert!(errors.contains(why) && errors.contains("apt-get install cvc5"), "{errors}");
        }
    }

    #[test]
    fn a_solver_that_does_not_know_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at_a_loss = "exec sed -un 's/^(check-sat)$/unknown/p'";
        for (lines, why) in
            [(at_a_loss, "the solver says `unknown`"), ("exit 3", "the solver failed: "), ("exec yes sat", "the solver failed: ")]
        {
            let solver = script(&folder, lines);
            let (code, said, errors) = prove("policies".as_ref(), Some(&solver), &[]);
            assert_eq!(code, 2, "{said}");
            assert!(
                said.contains("UNKNOWN    within the envelope   OrgAgent SendMessage ByoaInstallation") && said.contains(why),
                "{said}"
            );
            assert!(errors.contains("not proved: the solver left "), "{errors}");
        }
    }

    #[test]
    fn a_law_that_does_not_load_is_not_proved() {
        let law = Law::shipped().with("permit (principal, action, resource);\n");
        let (code, said, errors) = prove(law.0.path(), None, &[]);
        assert_eq!((code, said.as_str()), (1, ""));
        assert!(errors.contains("99-planted.cedar:1:1: the policy has no `@id`"), "{errors}");
        let (code, ..) = prove("/nonexistent".as_ref(), None, &[]);
        assert_eq!(code, 2);
    }
}
