//! The guards of the gateway by name: what each keeps out, and the rows of the failure-path matrix that must go red without
//! it. Floor 0.
//!
//! A guard stands in the code as `if … && stands(Guard::…)`. In a build that serves, [`stands`] is the constant `true` and
//! leaves no trace. With the feature `break-guards`, which does not compile without debug assertions, a test takes one guard
//! out for its own thread, plays the guard's rows, and sees them red (`tests/it/guards.rs`, `docs/matrix.md`).

macro_rules! guards {
    ($($variant:ident $name:literal keeps_out $keeps_out:literal rows $($row:literal)+;)+) => {
        /// A guard. Its name is stable.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Guard {
            $(#[doc = concat!("Keeps out ", $keeps_out, ".")] $variant,)+
        }

        impl Guard {
            /// Every guard, in the order of the dimensions of the matrix.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What it keeps out.
            pub const fn keeps_out(self) -> &'static str {
                match self { $(Self::$variant => $keeps_out),+ }
            }

            /// The rows of the matrix that must go red without it.
            pub const fn rows(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($row),+]),+ }
            }
        }
    };
}

guards! {
    // Proof.
    HeaderThere "header_there" keeps_out "a request without the header that should prove it" rows "001" "007" "017" "024";
    HeaderOnce "header_once" keeps_out "a request with two proofs, of which one is a guess" rows "016";
    SchemeTag "scheme_tag" keeps_out "a digest under the tag of another scheme" rows "006";
    DigestShape "digest_shape" keeps_out "a signature that is no digest, before the body is read" rows "002" "005";
    DigestLength "digest_length" keeps_out "a digest with more behind it" rows "002";
    DigestCase "digest_case" keeps_out "a second way to write one signature" rows "002";
    SignatureCompared "signature_compared" keeps_out "a body that was signed with another key, or changed since" rows "003" "004" "009" "018" "019" "020" "022" "027";
    SecretTokenCompared "secret_token_compared" keeps_out "a request whose secret header is not the bot's" rows "008";
    TimestampPlain "timestamp_plain" keeps_out "a signed time with anything but digits in it" rows "030";
    TimestampStale "timestamp_stale" keeps_out "a signed request from before the window" rows "028";
    TimestampFuture "timestamp_future" keeps_out "a signed request from after the window, which could be replayed for longer" rows "029";
    VerifyToken "verify_token" keeps_out "a handshake by somebody who does not know the token" rows "026";
    VerifyTokenOnce "verify_token_once" keeps_out "a handshake whose token is said twice" rows "026";
    VerifierKnown "verifier_known" keeps_out "proof by rules that this build does not know" rows "015";
    ProviderOfAddress "provider_of_address" keeps_out "an address under another provider's path" rows "083";
    ConstantAnswer "constant_answer" keeps_out "answers that tell a stranger why he was refused" rows "024" "027" "083";
    Tombstone "tombstone" keeps_out "an address that was removed passing for one that never was" rows "120";

    // Secrets.
    SecretRequired "secret_required" keeps_out "an app without a signing secret" rows "010";
    SecretBlank "secret_blank" keeps_out "a signing secret of nothing, or of spaces" rows "010";
    SecretWeak "secret_weak" keeps_out "a signing secret shorter than the provider's own" rows "011";
    SecretForm "secret_form" keeps_out "a signing secret that the provider could not have given out" rows "011";
    SecretPlaceholder "secret_placeholder" keeps_out "what templates leave behind, saved as a secret" rows "012";
    SecretRun "secret_run" keeps_out "one character again and again, saved as a secret" rows "012";
    SealedThere "sealed_there" keeps_out "a stored secret that is empty passing for one" rows "013";
    SecretsThere "secrets_there" keeps_out "an app whose secret is gone being judged at all" rows "013";
    SealedForThisRow "sealed_for_this_row" keeps_out "a ciphertext that was copied from another row or tenant" rows "096";
    SealedKeyName "sealed_key_name" keeps_out "an altered name of a key passing for a key that is not loaded" rows "097";
    OverlapEnds "overlap_ends" keeps_out "a replaced secret after its overlap" rows "093";
    OpenedAgain "opened_again" keeps_out "a replaced secret after its overlap, kept open from before" rows "093";
    OpenedForThisProfile "opened_for_this_profile" keeps_out "secrets that were opened before they were rotated or revoked" rows "092" "094";
    RevokedDropped "revoked_dropped" keeps_out "a secret that an operator revoked" rows "094";

    // Replay and clock.
    DedupeKey "dedupe_key" keeps_out "a second event of one webhook" rows "031" "032" "033" "034" "038";
    DedupeOfInstallation "dedupe_of_installation" keeps_out "an event of one installation passing for another's repeat" rows "037";
    CommittedBeforeAck "committed_before_ack" keeps_out "a 200 for what is not on disk" rows "035" "036" "039";
    ClockBelieved "clock_believed" keeps_out "signed times judged by a clock that jumped" rows "040";

    // Tenancy.
    AppOfProfile "app_of_profile" keeps_out "a body that names another app than the one whose secret signed it" rows "041" "046";
    AccountOfProfile "account_of_profile" keeps_out "an account that is none of the app's" rows "041" "042" "044" "045";
    BusinessOfNumber "business_of_number" keeps_out "a number under another business account" rows "042";
    StrangersAlarm "strangers_alarm" keeps_out "a tenant's app that names somebody else passing for an account not connected yet" rows "041" "042";
    ModeConflict "mode_conflict" keeps_out "a tenant's own account passing for an unknown one on the platform's app" rows "045";
    OneOwner "one_owner" keeps_out "an account that two owners hold going to one of them" rows "050";
    OneInstallation "one_installation" keeps_out "the first of two installations of one account" rows "050";
    IdentityTaken "identity_taken" keeps_out "an account that another owner holds" rows "048" "049";
    FieldImmutable "field_immutable" keeps_out "another app, owner, org, mode or address under an old name" rows "051";
    AccountImmutable "account_immutable" keeps_out "another account under an installation's old name" rows "051";
    PrincipalMutable "principal_mutable" keeps_out "a binding by a name, which changes hands" rows "053";
    SessionOfRoute "session_of_route" keeps_out "one session for two tenants in one conversation" rows "054";

    // Policy.
    PermitNeeded "permit_needed" keeps_out "what no policy permits" rows "055" "122";
    ErrorsRefuse "errors_refuse" keeps_out "an answer of policies of which one could not be evaluated" rows "056";
    ForbidsHold "forbids_hold" keeps_out "what a policy forbids" rows "102" "121";
    Envelope "envelope" keeps_out "what policies permit beyond the gateway's own bounds" rows "121";
    QuestionBudget "question_budget" keeps_out "a question too large to be evaluated in time" rows "059";
    LastGoodStays "last_good_stays" keeps_out "an invalid set taking the place of the good one" rows "057";

    // Parsing.
    JsonNamesOnce "json_names_once" keeps_out "a document that two readers read differently" rows "062" "063";
    JsonDepth "json_depth" keeps_out "a document nested too deep" rows "064";
    JsonEnds "json_ends" keeps_out "bytes behind a document" rows "065";
    JsonIsObject "json_is_object" keeps_out "a document that is no object" rows "065";
    DigitsKept "digits_kept" keeps_out "an id that was rounded to another" rows "066";
    IdFit "id_fit" keeps_out "control characters and over-long text in ids" rows "069";
    IdIsText "id_is_text" keeps_out "an identity of another type than the provider's" rows "068";
    ChatNamed "chat_named" keeps_out "a message in no chat, whose tenant would be a guess" rows "061";
    FormNamesOnce "form_names_once" keeps_out "a form that two readers read differently" rows "072";
    FormEscapes "form_escapes" keeps_out "a form with broken escapes" rows "072";
    BodyThere "body_there" keeps_out "an empty body" rows "067";

    // The edge.
    MediaType "media_type" keeps_out "a media type that the provider does not send" rows "071";
    ContentEncoding "content_encoding" keeps_out "a compressed body" rows "078";
    DeclaredLength "declared_length" keeps_out "a body that is announced too large" rows "073";
    BodyCap "body_cap" keeps_out "a body that turns out too large" rows "074";
    HeaderDeadline "header_deadline" keeps_out "a head that never ends" rows "075";
    BodyDeadline "body_deadline" keeps_out "a body that never ends" rows "076";
    FramingOneWay "framing_one_way" keeps_out "a request whose length can be read two ways" rows "079";
    HeaderBytes "header_bytes" keeps_out "a header block too large" rows "081";
    Method "method" keeps_out "a method that the address does not take" rows "082";

    // Sending.
    AgentsInstallation "agents_installation" keeps_out "an agent that names another org's installation" rows "054" "104";
    FallbackAsked "fallback_asked" keeps_out "the platform's credential where nobody asked for it" rows "101" "103";
    FallbackOptedIn "fallback_opted_in" keeps_out "the platform's credential for an org that did not opt in" rows "101";
    FallbackBinding "fallback_binding" keeps_out "the platform's credential where no binding allows it" rows "101";
    RedirectNotFollowed "redirect_not_followed" keeps_out "a token that follows a redirect" rows "105";
    RedirectNoAnswer "redirect_no_answer" keeps_out "a redirect passing for the provider's answer" rows "105";
    OutcomeUnknown "outcome_unknown" keeps_out "a second message where the first may have arrived" rows "106";
    WaitKept "wait_kept" keeps_out "calls while the provider asked to wait" rows "107";
    WaitOfInstallation "wait_of_installation" keeps_out "one tenant waiting for another" rows "107";
    DeadTokenDegrades "dead_token_degrades" keeps_out "an installation that looks well with a dead token" rows "108";
    DegradedParks "degraded_parks" keeps_out "calls with a token that is known to be dead" rows "108";
    AnsweredOnce "answered_once" keeps_out "a second call for a message whose outcome is on record" rows "106" "109";
    SameKeySameBody "same_key_same_body" keeps_out "another message under a used idempotency key" rows "109";
    RefreshedOnce "refreshed_once" keeps_out "a second exchange of one refresh token" rows "110";
    ReservedFields "reserved_fields" keeps_out "a message that says itself where it goes and by which token" rows "112";
    ConversationFit "conversation_fit" keeps_out "a line break in the name of a conversation" rows "112";
    SomethingToSay "something_to_say" keeps_out "a message of nothing" rows "112";

    // Lifecycle and rollout.
    RevokedDestroys "revoked_destroys" keeps_out "the tokens of an app that was uninstalled" rows "119";
    StaleNews "stale_news" keeps_out "news from before an install ending it" rows "119";
    MatrixThere "matrix_there" keeps_out "a promotion on no matrix run" rows "123";
    MatrixGreen "matrix_green" keeps_out "a promotion on a red matrix run" rows "123";
    MatrixOfPolicies "matrix_of_policies" keeps_out "a promotion on a run against other policies" rows "123";
    RollBackVoids "roll_back_voids" keeps_out "a promotion on a run from before a roll-back" rows "123";

    // Agents and deliveries.
    AgentUrl "agent_url" keeps_out "agents on private networks, and addresses that can be read two ways" rows "124" "126";
    AnswerLength "answer_length" keeps_out "an agent's answer that is larger than anybody reads" rows "128";
    AgentRedirect "agent_redirect" keeps_out "a redirect taken for a delivery" rows "127";
    ScheduleEnds "schedule_ends" keeps_out "attempts without an end" rows "130";
    GoneHalts "gone_halts" keeps_out "more deliveries to an agent that wants none" rows "131";
    PauseClamped "pause_clamped" keeps_out "a pause as long as an agent likes" rows "132";
    PoisonEnds "poison_ends" keeps_out "an event that takes down one worker after the other" rows "133";

    // Operators.
    OperatorKnown "operator_known" keeps_out "whoever brings any operator token" rows "149";
    VersionHeld "version_held" keeps_out "a change that was planned against another version" rows "155";
    AuditedOrNothing "audited_or_nothing" keeps_out "a change without its audit line" rows "157";
}

/// Whether a guard stands: always.
#[cfg(not(feature = "break-guards"))]
#[inline(always)]
pub const fn stands(_: Guard) -> bool {
    true
}

#[cfg(feature = "break-guards")]
mod broken {
    use std::cell::Cell;

    use super::Guard;

    thread_local! {
        static OUT: Cell<Option<Guard>> = const { Cell::new(None) };
    }

    /// Puts back what stood before, also where a test breaks.
    struct Back(Option<Guard>);

    impl Drop for Back {
        fn drop(&mut self) {
            OUT.set(self.0);
        }
    }

    /// Whether a guard stands on this thread.
    pub fn stands(guard: Guard) -> bool {
        OUT.get() != Some(guard)
    }

    /// Takes a guard out on this thread for as long as `f` runs.
    pub fn without<T>(guard: Guard, f: impl FnOnce() -> T) -> T {
        let _back = Back(OUT.replace(Some(guard)));
        f()
    }
}

#[cfg(feature = "break-guards")]
pub use broken::{stands, without};

#[cfg(all(test, feature = "break-guards"))]
mod tests {
    use std::{panic, thread};

    use super::*;

    #[test]
    fn a_guard_is_out_for_one_thread_and_comes_back() {
        let broken = panic::catch_unwind(|| {
            without(Guard::HeaderOnce, || {
                assert!(!stands(Guard::HeaderOnce) && stands(Guard::HeaderThere), "one guard and no other");
                assert!(thread::spawn(|| stands(Guard::HeaderOnce)).join().unwrap(), "one thread and no other");
                panic!("planned");
            })
        });
        let said = broken.unwrap_err();
        assert_eq!((said.downcast_ref::<&str>(), stands(Guard::HeaderOnce)), (Some(&"planned"), true));
    }
}
