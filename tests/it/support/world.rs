//! The world that the failure paths happen in: for one provider, the platform's app installed at acme, acme's own app and
//! globex's own app, each in an account of its own.

use byoa_gateway::domain::installation::{ExternalAccount, ProviderKind};
use serde_json::{Value, json};

/// One app in one account.
#[derive(Clone, Debug)]
pub struct App {
    pub provider: ProviderKind,
    pub profile: String,
    pub owner: &'static str,
    pub org: &'static str,
    pub app_id: &'static str,
    pub ingress: String,
    pub secret: &'static str,
    pub verify_token: &'static str,
    /// What a message is said to: team, bot or phone number id.
    pub account: &'static str,
    /// WhatsApp's business account.
    pub waba: &'static str,
}

impl App {
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

    pub fn path(&self) -> String {
        format!("/webhooks/{}/{}", self.provider, self.ingress)
    }

    pub fn profile_json(&self) -> Value {
        let mut profile = json!({"id": self.profile, "provider": self.provider, "owner": self.owner, "app_id": self.app_id,
            "ingress_id": self.ingress, "signing_secret": {"value": self.secret}});
        if self.provider == ProviderKind::WhatsApp {
            profile["verify_token"] = json!({"value": self.verify_token});
        }
        profile
    }
}

/// The platform's app at acme.
pub fn platform(provider: ProviderKind) -> App {
    let (account, waba, secret) = match provider {
        ProviderKind::Slack => ("T00PLATACME", "", "1f0c9d3b5a7e4826b1d0c9f8e7a65b43"),
        ProviderKind::Telegram => ("7000000001", "", "plat_tg-4Qe7Rw2Lk9"),
        ProviderKind::WhatsApp => ("118000000000001", "109000000000001", "2a1c9d3b5a7e4826b1d0c9f8e7a65b44"),
    };
    App {
        provider,
        profile: format!("{provider}-platform"),
        owner: "platform",
        org: "acme",
        app_id: "A00PLATFORM",
        ingress: format!("{provider}-platform-7f3k9q"),
        secret,
        verify_token: "vt_platform-8Yh2",
        account,
        waba,
    }
}

/// Acme's own app.
pub fn acme(provider: ProviderKind) -> App {
    let (account, waba, secret) = match provider {
        ProviderKind::Slack => ("T00ACMEOWN1", "", "8f742231b10e8888abcd99aaabbb85a5"),
        ProviderKind::Telegram => ("7000000002", "", "acme_tg-9vQx7LmN2p"),
        ProviderKind::WhatsApp => ("118000000000002", "109000000000002", "d3b07384d113edec49eaa6238ad5ff00"),
    };
    App {
        provider,
        profile: format!("{provider}-acme"),
        owner: "acme",
        org: "acme",
        app_id: "A00ACMEOWN1",
        ingress: format!("{provider}-acme-2m8d4s6x"),
        secret,
        verify_token: "vt_acme-3Qe7",
        account,
        waba,
    }
}

/// Globex's own app.
pub fn globex(provider: ProviderKind) -> App {
    let (account, waba, secret) = match provider {
        ProviderKind::Slack => ("T00GLOBEX01", "", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
        ProviderKind::Telegram => ("7000000003", "", "globex_tg-5Tn1Bc8Zs"),
        ProviderKind::WhatsApp => ("118000000000003", "109000000000003", "c157a79031e1c40f85931829bc5fc552"),
    };
    App {
        provider,
        profile: format!("{provider}-globex"),
        owner: "globex",
        org: "globex",
        app_id: "A00GLOBEX01",
        ingress: format!("{provider}-globex-6h1j3w5"),
        secret,
        verify_token: "vt_globex-1Zx9",
        account,
        waba,
    }
}

/// All three with their orgs, agents and bindings, for `apply`.
pub fn document(provider: ProviderKind) -> Value {
    let apps = [platform(provider), acme(provider), globex(provider)];
    // Standard Webhooks secrets are base64.
    let agent = |org: &str| {
        let secret = if org == "acme" { "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" } else { "whsec_plJ3nmyCDGBKInavdOK15jsl" };
        json!({"id": format!("{org}-agent"), "org": org, "endpoint": "http://127.0.0.1:9/events",
            "signing_secret": {"value": secret}, "token": {"value": format!("agt_{org}_3kd9slw02mfj47")}})
    };
    let mut installations = Vec::new();
    let mut bindings = Vec::new();
    for app in &apps {
        let id = app.profile.clone();
        installations.push(json!({"id": id, "profile": app.profile, "org": app.org, "account": account_json(&app.external())}));
        bindings.push(json!({"id": id, "org": app.org, "installation": id, "agent": format!("{}-agent", app.org)}));
    }
    json!({
        "orgs": [{"id": "acme", "name": "Acme Inc"}, {"id": "globex", "name": "Globex"}],
        "agents": [agent("acme"), agent("globex")],
        "profiles": apps.iter().map(App::profile_json).collect::<Vec<_>>(),
        "installations": installations,
        "bindings": bindings,
    })
}

/// The same, every installation with its credential.
pub fn document_with_credentials(provider: ProviderKind) -> Value {
    let mut document = document(provider);
    for (installation, app) in
        document["installations"].as_array_mut().unwrap().iter_mut().zip([platform(provider), acme(provider), globex(provider)])
    {
        installation["credential"] = json!({"value": app.credential()});
    }
    document
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
