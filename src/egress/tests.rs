use std::sync::Arc;

use serde_json::json;
use zeroize::Zeroizing;

use super::*;
use crate::config::RolloutSection;
use crate::crypto::envelope::KeyRing;
use crate::domain::clock::Timestamp;
use crate::domain::ids::AgentId;
use crate::domain::installation::{AgentStatus, DeliveryFormat};
use crate::store::directory::SealedSecret;
use crate::vault::field;

const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

async fn egress(folder: &std::path::Path) -> Egress {
    let mut key = Zeroizing::new([9u8; 32]);
    key[0] = 1;
    let clock = Clock::manual(NOW);
    let law = Snapshot::load("policies".as_ref(), "schemas/gateway.cedarschema".as_ref(), Timestamp::default()).unwrap();
    let url = format!("sqlite:{}", folder.join("data/byoa.db").display());
    let store = Store::open(&url, &Limits::default(), &RolloutSection::default(), &clock).await.unwrap();
    store.content_keys().add(None, &Zeroizing::new([3; 32]));
    Egress {
        store,
        vault: Vault::new(KeyRing::new(vec![key]).unwrap(), crate::crypto::MacKey::new(b"lookup").unwrap()),
        metrics: Arc::new(Metrics::new(law.version())),
        engine: Engine::new(law),
        clock,
        transport: Transport::providers().unwrap(),
        providers: ProvidersSection::default(),
        limits: Limits::default(),
        used: Arc::default(),
        refreshers: Refreshers::default(),
        calls: Calls::default(),
        held: Budget::new(1024 * 1024, 1024 * 1024),
    }
}

fn principal(vault: &Vault) -> AgentPrincipal {
    let id = AgentId::parse("support").unwrap();
    let item = Agent {
        id: id.clone(),
        org: None,
        endpoint: "http://127.0.0.1:9/".into(),
        format: DeliveryFormat::Cloudevents,
        status: AgentStatus::Active,
        synchronous: Default::default(),
    };
    let token = SealedSecret {
        id: "crd_1".into(),
        field: field::TOKEN.into(),
        slot: "current".into(),
        sealed: Vec::new(),
        fingerprint: vault.fingerprint("agt_support"),
        set: NOW,
        until: None,
    };
    let mut directory = Directory::default();
    directory.agents.insert(id, Arc::new(Kept { item, secrets: vec![token], updated: NOW }));
    crate::authn::agent::authenticate(Some("agt_support"), &directory.indexed(), vault).unwrap()
}

#[tokio::test]
async fn a_send_that_breaks_is_settled_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let egress = egress(folder.path()).await;
    let (principal, request) = (principal(&egress.vault), RequestId::fresh(NOW));
    let again = |id: MessageId| NewSend { id, key: "k".into(), digest: "d".into(), at: NOW };
    let id = MessageId::fresh(NOW);
    assert_eq!(egress.store.begin_send(&principal, again(id.clone())).await.unwrap(), SendStart::Fresh);
    assert_eq!(egress.store.begin_send(&principal, again(MessageId::fresh(NOW))).await.unwrap(), SendStart::InFlight);
    let answer = egress.to_its_end(id.clone(), &principal, &request, async { panic!("on the way") }).await;
    assert_eq!((answer.status, &answer.body["code"]), (504, &json!("egress.outcome_unknown")));
    let settled = SendStart::Answered { status: 504, answer: answer.body.clone() };
    assert_eq!(egress.store.begin_send(&principal, again(MessageId::fresh(NOW))).await.unwrap(), settled);
    // What was settled before it broke stays as it was.
    let other = |id: MessageId| NewSend { key: "other".into(), ..again(id) };
    let id = MessageId::fresh(NOW);
    assert_eq!(egress.store.begin_send(&principal, other(id.clone())).await.unwrap(), SendStart::Fresh);
    let (this, who, asked, settling) = (egress.clone(), principal.clone(), request.clone(), id.clone());
    let late = async move {
        let receipt = Receipt { provider_message_id: "1.2".into() };
        let _ = this.finish(settling, &who, &asked, Trail::default(), Ok(receipt)).await;
        panic!("too late")
    };
    assert_eq!(egress.to_its_end(id, &principal, &request, late).await.status, 504);
    let known = egress.store.begin_send(&principal, other(MessageId::fresh(NOW))).await.unwrap();
    assert!(matches!(known, SendStart::Answered { status: 200, .. }), "{known:?}");
    egress.store.close().await;
}
