//! The world that the matrix is played in: for one provider, the platform's app installed at acme, acme's own app and
//! globex's own app, each in an account of its own. Its names begin with a word of whoever asks, so that no policy of a real
//! tenant means them.

use crate::domain::installation::{ExternalAccount, ProviderKind};
use serde_json::{Value, json};

/// What names begin with where the matrix is played.
pub const PREFIX: &str = "matrix-";

/// One app in one account.
#[derive(Clone, Debug)]
pub struct App {
    /// The provider.
    pub provider: ProviderKind,
    /// Its profile, and its installation.
    pub profile: String,
    /// Who owns it: an org, or `platform`.
    pub owner: String,
    /// Whose installation it is.
    pub org: String,
    /// The provider's id of it.
    pub app_id: &'static str,
    /// The last part of its address.
    pub ingress: String,
    /// What it is signed with.
    pub secret: &'static str,
    /// WhatsApp's verify token.
    pub verify_token: &'static str,
    /// What a message is said to: team, bot or phone number id.
    pub account: &'static str,
    /// WhatsApp's business account.
    pub waba: &'static str,
}

impl App {
    /// The account as the directory names it.
    pub fn external(&self) -> ExternalAccount {
        match self.provider {
            ProviderKind::Slack => ExternalAccount::Slack { team_id: Some(self.account.into()), enterprise_id: None },
            ProviderKind::Telegram => ExternalAccount::Telegram { bot_id: self.account.into(), chats: Vec::new() },
            ProviderKind::WhatsApp => ExternalAccount::WhatsApp { waba_id: self.waba.into(), phone_number_id: self.account.into() },
        }
    }

    /// What its installation sends with.
    pub fn credential(&self) -> String {
        let bot = if self.provider == ProviderKind::Telegram { format!("{}:", self.account) } else { String::new() };
        format!("{bot}canary-{}-credential", self.profile)
    }

    /// Its webhook address.
    pub fn path(&self) -> String {
        format!("/webhooks/{}/{}", self.provider, self.ingress)
    }

    /// Its profile for `apply`.
    pub fn profile_json(&self) -> Value {
        let token = (self.provider == ProviderKind::WhatsApp).then(|| json!({"value": self.verify_token}));
        let mut profile = json!({"id": self.profile, "provider": self.provider, "owner": self.owner, "app_id": self.app_id,
            "ingress_id": self.ingress, "signing_secret": {"value": self.secret}});
        if let (Some(profile), Some(token)) = (profile.as_object_mut(), token) {
            profile.insert("verify_token".into(), token);
        }
        profile
    }
}

/// The platform's app at acme.
pub fn platform(provider: ProviderKind, prefix: &str) -> App {
    let (account, waba, secret) = match provider {
        ProviderKind::Slack => ("T00PLATACME", "", "1f0c9d3b5a7e4826b1d0c9f8e7a65b43"),
        ProviderKind::Telegram => ("7000000001", "", "plat_tg-4Qe7Rw2Lk9"),
        ProviderKind::WhatsApp => ("118000000000001", "109000000000001", "2a1c9d3b5a7e4826b1d0c9f8e7a65b44"),
    };
    App {
        provider,
        profile: format!("{provider}-{prefix}platform"),
        owner: "platform".into(),
        org: format!("{prefix}acme"),
        app_id: "A00PLATFORM",
        ingress: format!("{provider}-platform-7f3k9q"),
        secret,
        verify_token: "vt_platform-8Yh2",
        account,
        waba,
    }
}

/// Acme's own app.
pub fn acme(provider: ProviderKind, prefix: &str) -> App {
    let (account, waba, secret) = match provider {
        ProviderKind::Slack => ("T00ACMEOWN1", "", "8f742231b10e8888abcd99aaabbb85a5"),
        ProviderKind::Telegram => ("7000000002", "", "acme_tg-9vQx7LmN2p"),
        ProviderKind::WhatsApp => ("118000000000002", "109000000000002", "d3b07384d113edec49eaa6238ad5ff00"),
    };
    App {
        provider,
        profile: format!("{provider}-{prefix}acme"),
        owner: format!("{prefix}acme"),
        org: format!("{prefix}acme"),
        app_id: "A00ACMEOWN1",
        ingress: format!("{provider}-acme-2m8d4s6x"),
        secret,
        verify_token: "vt_acme-3Qe7",
        account,
        waba,
    }
}

/// Globex's own app.
pub fn globex(provider: ProviderKind, prefix: &str) -> App {
    let (account, waba, secret) = match provider {
        ProviderKind::Slack => ("T00GLOBEX01", "", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
        ProviderKind::Telegram => ("7000000003", "", "globex_tg-5Tn1Bc8Zs"),
        ProviderKind::WhatsApp => ("118000000000003", "109000000000003", "c157a79031e1c40f85931829bc5fc552"),
    };
    App {
        provider,
        profile: format!("{provider}-{prefix}globex"),
        owner: format!("{prefix}globex"),
        org: format!("{prefix}globex"),
        app_id: "A00GLOBEX01",
        ingress: format!("{provider}-globex-6h1j3w5"),
        secret,
        verify_token: "vt_globex-1Zx9",
        account,
        waba,
    }
}

/// All three with their orgs, agents and bindings, for `apply`; with their credentials where they are to speak.
pub fn document(provider: ProviderKind, prefix: &str, credentials: bool) -> Value {
    let apps = [platform(provider, prefix), acme(provider, prefix), globex(provider, prefix)];
    // Standard Webhooks secrets are base64.
    let agent = |org: &str, secret: &str| {
        json!({"id": format!("{prefix}{org}-agent"), "org": format!("{prefix}{org}"), "endpoint": "http://127.0.0.1:9/events",
            "signing_secret": {"value": secret}, "token": {"value": format!("agt_{org}_3kd9slw02mfj47")}})
    };
    let installation = |app: &App| {
        let mut installation = json!({"id": app.profile, "profile": app.profile, "org": app.org, "account": account_json(&app.external())});
        if let (true, Some(installation)) = (credentials, installation.as_object_mut()) {
            installation.insert("credential".into(), json!({"value": app.credential()}));
        }
        installation
    };
    let binding =
        |app: &App| json!({"id": app.profile, "org": app.org, "installation": app.profile, "agent": format!("{}-agent", app.org)});
    json!({
        "orgs": [{"id": format!("{prefix}acme"), "name": "Acme Inc"}, {"id": format!("{prefix}globex"), "name": "Globex"}],
        "agents": [agent("acme", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), agent("globex", "whsec_plJ3nmyCDGBKInavdOK15jsl")],
        "profiles": apps.iter().map(App::profile_json).collect::<Vec<_>>(),
        "installations": apps.iter().map(installation).collect::<Vec<_>>(),
        "bindings": apps.iter().map(binding).collect::<Vec<_>>(),
    })
}

/// An account as a document names it.
pub fn account_json(account: &ExternalAccount) -> Value {
    match account {
        ExternalAccount::Slack { team_id: Some(team), .. } => json!({"team_id": team}),
        ExternalAccount::Slack { enterprise_id, .. } => json!({"enterprise_id": enterprise_id}),
        ExternalAccount::Telegram { bot_id, .. } => json!({"bot_id": bot_id}),
        ExternalAccount::WhatsApp { waba_id, phone_number_id } => json!({"waba_id": waba_id, "phone_number_id": phone_number_id}),
    }
}
