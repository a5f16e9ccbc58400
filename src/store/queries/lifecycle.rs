//! Statements that change what an installation may do: one transaction with whatever brought the news.

use serde_json::json;
use sqlx::Row;

use super::super::conn::Conn;
use super::super::content::{PLACES, PlaceContent, conversation_digest, open_json, place_id, seal_json};
use super::super::outbox::Open;
use super::super::writer::failed;
use super::super::{SecretPut, StoreError};
use super::audit;
use super::declared::{free_accounts, put_secret, stored_installation, write_installation};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::InstallationId;
use crate::domain::installation::{ExternalAccount, Installation, InstallationStatus as Status};
use crate::domain::lifecycle::{LifecycleChange, Place, Shift, Shifted, StatusReason};
use crate::domain::reason::ReasonCode;
use crate::domain::record::AuditRecord;

/// Slack, Telegram and WhatsApp tell whole seconds: all of the second in which an install was made counts as after it.
const GRAIN_MS: i64 = 999;

/// Applies a change. Empty when there was nothing to change: a repeat, an installation that is gone, a credential that is no
/// longer its own. Deliveries that end with it are added to `closed`.
pub(in crate::store) async fn shift(
    conn: &mut Conn,
    shift: &Shift,
    now: Timestamp,
    closed: &mut Vec<Open>,
) -> Result<Vec<Shifted>, StoreError> {
    let Some(installation) = stored_installation(conn, shift.installation.as_str()).await? else { return Ok(Vec::new()) };
    if let Some(credential) = &shift.credential
        && current_credential(conn, &shift.installation).await?.is_none_or(|(_, fingerprint)| fingerprint != *credential)
    {
        return Ok(Vec::new());
    }
    if is_stale(&installation, shift) {
        audit(conn, &[line(shift, &installation.id, "lifecycle.stale", "refused", now, json!({"change": shift.change.as_str()}))]).await?;
        return Ok(vec![Shifted::Stale { installation: installation.id, provider: shift.provider }]);
    }
    let done = match &shift.change {
        LifecycleChange::Status(to, reason) => status(conn, shift, installation, *to, *reason, now, closed).await?,
        LifecycleChange::Restored => restore(conn, shift, installation, now).await?,
        LifecycleChange::WorkspacesRemoved(teams) => {
            let mut done = places(conn, shift, teams.iter().map(|t| (workspace(t), &Place::Left)), "workspace.remove", now).await?;
            for own in installations_of(conn, &installation, teams).await? {
                if !is_stale(&own, shift) {
                    done.extend(status(conn, shift, own, Status::Revoked, StatusReason::WorkspaceRemoved, now, closed).await?);
                }
            }
            done
        }
        LifecycleChange::WorkspacesAdded(teams) => {
            places(conn, shift, teams.iter().map(|t| (workspace(t), &Place::Open)), "workspace.add", now).await?
        }
        LifecycleChange::Place { conversation, place } => {
            let action = match place {
                Place::Open => "conversation.open",
                Place::Blocked => "conversation.block",
                Place::Left => "conversation.leave",
                Place::Moved { .. } => "conversation.move",
            };
            let mut done = places(conn, shift, [(conversation.clone(), place)].into_iter(), action, now).await?;
            if let Place::Moved { to } = place {
                // It may have had that id before; and a shared bot's chat stays its org's under the new one.
                done.extend(places(conn, shift, [(to.clone(), &Place::Open)].into_iter(), "conversation.open", now).await?);
                if !done.is_empty() {
                    follow(conn, installation, conversation, to, now).await?;
                }
            }
            done
        }
    };
    Ok(done)
}

fn is_stale(installation: &Installation, shift: &Shift) -> bool {
    shift.happened.is_some_and(|at| at.plus_ms(GRAIN_MS) < installation.connected_at) && stands(Guard::StaleNews)
}

/// Workspaces of an org-wide install stand among its conversations; no conversation has a colon in its id.
fn workspace(team: &str) -> String {
    format!("team:{team}")
}

fn line(
    shift: &Shift,
    target: &InstallationId,
    action: &'static str,
    outcome: &'static str,
    now: Timestamp,
    detail: serde_json::Value,
) -> AuditRecord {
    AuditRecord {
        at: now,
        actor: shift.actor.clone(),
        action,
        target: target.to_string(),
        org: Some(shift.org.clone()),
        outcome,
        code: None,
        decision: None,
        request: shift.request.clone(),
        detail: Some(detail.to_string()),
    }
}

/// What may follow on what: revoked is for good, and nothing of the provider's lifts what an operator suspended.
fn follows(installation: &Installation, to: Status) -> bool {
    match (installation.status, to) {
        (Status::Revoked, _) => false,
        (_, Status::Revoked) => true,
        (Status::Active, Status::Degraded) => true,
        (Status::Active | Status::Degraded | Status::Pending, Status::Suspended) => true,
        _ => false,
    }
}

async fn status(
    conn: &mut Conn,
    shift: &Shift,
    mut installation: Installation,
    to: Status,
    reason: StatusReason,
    now: Timestamp,
    closed: &mut Vec<Open>,
) -> Result<Vec<Shifted>, StoreError> {
    if !follows(&installation, to) {
        return Ok(Vec::new());
    }
    let from = installation.status;
    let mut ended = 0;
    if to == Status::Revoked {
        if installation.declared.is_none() {
            installation.declared = current_credential(conn, &installation.id).await?.map(|(_, fingerprint)| fingerprint);
        }
        let open = end(conn, &installation.id, now).await?;
        ended = open.len();
        closed.extend(open);
    }
    installation.stand(to, Some(reason), now);
    write_installation(conn, &installation, now).await?;
    let action = match to {
        Status::Revoked => "installation.revoke",
        Status::Suspended => "installation.suspend",
        _ => "installation.degrade",
    };
    let detail = json!({"reason": reason, "from": from, "epoch": installation.epoch, "deliveries_ended": ended});
    audit(conn, &[line(shift, &installation.id, action, "done", now, detail)]).await?;
    Ok(vec![Shifted::Done { installation: installation.id, provider: installation.provider, change: LifecycleChange::Status(to, reason) }])
}

async fn restore(conn: &mut Conn, shift: &Shift, mut installation: Installation, now: Timestamp) -> Result<Vec<Shifted>, StoreError> {
    let held = matches!(installation.status, Status::Degraded | Status::Suspended);
    let Some(reason) = installation.status_reason.filter(|r| held && r.of_account()) else { return Ok(Vec::new()) };
    installation.stand(Status::Active, None, now);
    write_installation(conn, &installation, now).await?;
    audit(conn, &[line(shift, &installation.id, "installation.restore", "done", now, json!({"was": reason}))]).await?;
    Ok(vec![Shifted::Done { installation: installation.id, provider: installation.provider, change: LifecycleChange::Restored }])
}

/// What a revoked installation leaves: no secret, no claim on its account, no open delivery.
pub(super) async fn end(conn: &mut Conn, id: &InstallationId, now: Timestamp) -> Result<Vec<Open>, StoreError> {
    if stands(Guard::RevokedDestroys) {
        sqlx::query("DELETE FROM secrets WHERE kind = 'installations' AND owner = $1")
            .bind(id.as_str())
            .execute(&mut **conn)
            .await
            .map_err(failed)?;
    }
    free_accounts(conn, id.as_str()).await?;
    // The lease grows, so that an attempt under way settles nothing should the dead letter be replayed meanwhile.
    let rows = sqlx::query(
        "UPDATE deliveries SET state = 'dead', settled_ms = $2, code = $3, lease = lease + 1, lease_until_ms = NULL WHERE seq IN \
         (SELECT d.seq FROM deliveries d INDEXED BY deliveries_open JOIN events e ON e.seq = d.seq \
          WHERE d.settled_ms IS NULL AND e.installation = $1) RETURNING seq, session, agent, org",
    )
    .bind(id.as_str())
    .bind(now.ms())
    .bind(ReasonCode::DeliveryInstallationRevoked.as_str())
    .fetch_all(&mut **conn)
    .await
    .map_err(failed)?;
    let open = |row: &sqlx::sqlite::SqliteRow| {
        let (seq, session, agent, org) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        Ok(Open { seq, session, org, agent, installation: id.to_string(), at_ms: now.ms(), leased: false })
    };
    rows.iter().map(open).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

/// Notes how conversations stand. What is older than what is known of one, and what says the same, changes nothing.
async fn places<'p>(
    conn: &mut Conn,
    shift: &Shift,
    all: impl Iterator<Item = (String, &'p Place)>,
    action: &'static str,
    now: Timestamp,
) -> Result<Vec<Shifted>, StoreError> {
    let at = shift.happened.unwrap_or(now);
    let key = conn.key(Some(&shift.org))?;
    let mut done = Vec::new();
    for (conversation, place) in all {
        let moved_to = if let Place::Moved { to } = place { Some(to.clone()) } else { None };
        let digest = conversation_digest(&key, &conversation);
        let row = place_id(&shift.installation, &digest);
        let known: Option<(String, Vec<u8>, i64)> =
            sqlx::query_as("SELECT state, content, at_ms FROM places WHERE installation = $1 AND conversation = $2")
                .bind(shift.installation.as_str())
                .bind(digest.as_str())
                .fetch_optional(&mut **conn)
                .await
                .map_err(failed)?;
        let same = match &known {
            Some((state, sealed, since)) => {
                let before = open_json::<PlaceContent>(&key, PLACES, &row, sealed)?;
                *since > at.ms() || (state == place.as_str() && before.moved_to == moved_to)
            }
            None => *place == Place::Open,
        };
        if same {
            continue;
        }
        sqlx::query(
            "INSERT INTO places (installation, conversation, state, at_ms, content) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (installation, conversation) DO UPDATE SET state = excluded.state, at_ms = excluded.at_ms, content = excluded.content",
        )
        .bind(shift.installation.as_str())
        .bind(digest.as_str())
        .bind(place.as_str())
        .bind(at.ms())
        .bind(seal_json(&key, PLACES, &row, &PlaceContent { conversation, moved_to: moved_to.clone() })?)
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
        // The audit outlives the org's key, so it holds digests.
        let to = moved_to.map(|to| conversation_digest(&key, &to));
        audit(conn, &[line(shift, &shift.installation, action, "done", now, json!({"conversation": digest, "to": to}))]).await?;
        done.push(Shifted::Done { installation: shift.installation.clone(), provider: shift.provider, change: shift.change.clone() });
    }
    Ok(done)
}

/// A chat that a shared bot's installation lists is listed under its new id too, unless that is somebody's already.
async fn follow(conn: &mut Conn, mut installation: Installation, from: &str, to: &str, now: Timestamp) -> Result<(), StoreError> {
    let ExternalAccount::Telegram { bot_id, chats } = &mut installation.account else { return Ok(()) };
    if !chats.iter().any(|c| c == from) || chats.iter().any(|c| c == to) {
        return Ok(());
    }
    let taken: Option<i64> = sqlx::query_scalar("SELECT 1 FROM owners WHERE account = $1")
        .bind(format!("telegram:bot:{bot_id}/{to}"))
        .fetch_optional(&mut **conn)
        .await
        .map_err(failed)?;
    if taken.is_some() {
        tracing::error!(installation = %installation.id, "a chat has a new id that another installation lists");
        return Ok(());
    }
    chats.push(to.to_owned());
    chats.sort();
    super::declared::claim_accounts(conn, &installation).await?;
    write_installation(conn, &installation, now).await
}

/// The living installations of the same app in these workspaces.
async fn installations_of(conn: &mut Conn, of: &Installation, teams: &[String]) -> Result<Vec<Installation>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM resources WHERE kind = 'installations' AND json_extract(body, '$.profile') = $1 \
         AND json_extract(body, '$.account.team_id') IN (SELECT value FROM json_each($2)) ORDER BY id",
    )
    .bind(of.profile.as_str())
    .bind(serde_json::to_string(teams).unwrap_or_default())
    .fetch_all(&mut **conn)
    .await
    .map_err(failed)?;
    let enterprise = |i: &Installation| match &i.account {
        ExternalAccount::Slack { enterprise_id, .. } => enterprise_id.clone(),
        _ => None,
    };
    let ours = enterprise(of);
    let mut found = Vec::new();
    for id in ids {
        if let Some(own) = stored_installation(conn, &id).await?
            && enterprise(&own).is_none_or(|e| Some(e) == ours)
        {
            found.push(own);
        }
    }
    Ok(found)
}

async fn current_credential(conn: &mut Conn, installation: &InstallationId) -> Result<Option<(String, String)>, StoreError> {
    sqlx::query_as(
        "SELECT id, fingerprint FROM secrets WHERE kind = 'installations' AND owner = $1 AND field = 'credential' AND slot = 'current'",
    )
    .bind(installation.as_str())
    .fetch_optional(&mut **conn)
    .await
    .map_err(failed)
}

/// A refreshed pair on its way into the store.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// The installation.
    pub installation: InstallationId,
    /// The fingerprint of the credential that was refreshed; another one there is an operator's, which goes before.
    pub replaces: String,
    /// The new credential, and the new refresh token.
    pub pair: Vec<SecretPut>,
    /// The audit line.
    pub audit: AuditRecord,
}

/// Keeps a refreshed pair; `false` when the credential is another by now.
pub(in crate::store) async fn refreshed(conn: &mut Conn, new: &Refreshed) -> Result<bool, StoreError> {
    if current_credential(conn, &new.installation).await?.is_none_or(|(_, fingerprint)| fingerprint != new.replaces) {
        return Ok(false);
    }
    for put in &new.pair {
        put_secret(conn, put).await?;
    }
    audit(conn, std::slice::from_ref(&new.audit)).await.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, RolloutSection};
    use crate::domain::clock::Clock;
    use crate::domain::installation::{Ownership, ProviderKind};
    use crate::store::directory::SealedSecret;
    use crate::store::{Change, Resource, Store};

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    async fn store(folder: &std::path::Path) -> Store {
        let url = format!("sqlite:{}", folder.join("data/byoa.db").display());
        Store::open(&url, &Limits::default(), &RolloutSection::default(), &Clock::manual(NOW)).await.unwrap()
    }

    fn installation() -> Installation {
        let mut installation = Installation {
            id: InstallationId::parse("ins").unwrap(),
            profile: crate::domain::ids::ProfileId::parse("app").unwrap(),
            org: crate::domain::ids::OrgId::parse("acme").unwrap(),
            provider: ProviderKind::Slack,
            owner: Ownership::Platform,
            account: ExternalAccount::Slack { team_id: Some("T1".into()), enterprise_id: None },
            status: Status::Active,
            epoch: 1,
            connected_at: NOW,
            status_reason: None,
            since: None,
            declared: None,
        };
        installation.stand(Status::Active, None, NOW);
        installation
    }

    fn secret() -> SecretPut {
        let secret = SealedSecret {
            id: "crd_1".into(),
            field: "credential".into(),
            slot: "current".into(),
            sealed: vec![1],
            fingerprint: "f1".into(),
            set: NOW,
            until: None,
        };
        SecretPut { kind: "installations", owner: "ins".into(), secret }
    }

    fn news(change: LifecycleChange) -> Shift {
        let of = installation();
        Shift {
            installation: of.id,
            profile: of.profile,
            org: of.org,
            provider: of.provider,
            change,
            event: None,
            happened: None,
            credential: None,
            actor: "test".into(),
            request: None,
        }
    }

    async fn put(store: &Store, planned: Installation) {
        let change = Change::Put(Box::new(Resource::Installation(planned)), vec![secret()]);
        store.apply(vec![change], vec![], NOW).await.unwrap();
    }

    fn kept(store: &Store) -> (Status, Option<StatusReason>, usize) {
        let directory = store.directory();
        let kept = directory.installations.values().next().unwrap();
        (kept.item.status, kept.item.status_reason, kept.secrets.len())
    }

    #[tokio::test]
    async fn a_change_that_was_planned_before_the_news_does_not_undo_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        put(&store, installation()).await;
        let planned = installation();
        let degraded = LifecycleChange::Status(Status::Degraded, StatusReason::CredentialDead);
        assert_eq!(store.shift(news(degraded), NOW.plus_ms(5)).await.unwrap().len(), 1);
        put(&store, planned.clone()).await;
        assert_eq!(kept(&store), (Status::Degraded, Some(StatusReason::CredentialDead), 1));
        let revoked = || news(LifecycleChange::Status(Status::Revoked, StatusReason::Uninstalled));
        assert_eq!(store.shift(revoked(), NOW.plus_ms(9)).await.unwrap().len(), 1);
        assert_eq!(store.shift(revoked(), NOW.plus_ms(9)).await.unwrap(), [], "a repeat");
        let mut later = planned.clone();
        later.stand(Status::Active, None, NOW.plus_ms(60_000));
        for planned in [planned, later.clone()] {
            put(&store, planned).await;
            assert_eq!(kept(&store), (Status::Revoked, Some(StatusReason::Uninstalled), 0), "and no secret of it");
        }
        later.epoch = 2;
        put(&store, later).await;
        assert_eq!(kept(&store), (Status::Active, None, 1));
        store.close().await;
    }
}
