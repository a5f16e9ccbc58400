//! Statements that change what operators declared, and the claims on external accounts that hold it together.

use super::super::conn::Conn;
use super::super::directory::{bot_owner, claims};
use super::super::outbox::Open;
use super::super::writer::failed;
use super::super::{Change, Resource, SecretPut, StoreError};
use super::{audit, lifecycle};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{OrgId, ProfileId};
use crate::domain::installation::{AppProfile, Installation, InstallationStatus};
use crate::domain::record::AuditRecord;

/// Applies declared changes; the deliveries that end with installations that are revoked by them.
pub(in crate::store) async fn apply(
    conn: &mut Conn,
    changes: &[Change],
    lines: &[AuditRecord],
    now: Timestamp,
) -> Result<Vec<Open>, StoreError> {
    let mut closed = Vec::new();
    for change in changes {
        match change {
            Change::Put(resource, secrets) => match resource.as_ref() {
                Resource::Installation(installation) => closed.extend(put_installation(conn, installation, secrets, now).await?),
                Resource::Profile(profile) => put_profile(conn, profile, secrets, now).await?,
                resource => put(conn, resource, secrets, now).await?,
            },
            Change::KeepKey(secret) => keep_key(conn, secret).await?,
            Change::DropSecret { kind, owner, field, slot } => {
                sqlx::query("DELETE FROM secrets WHERE kind = $1 AND owner = $2 AND field = $3 AND slot = $4")
                    .bind(*kind)
                    .bind(owner.as_str())
                    .bind(field.as_str())
                    .bind(*slot)
                    .execute(&mut **conn)
                    .await
                    .map_err(failed)?;
            }
            Change::Delete { kind, id } => delete(conn, kind, id, now).await?,
        }
    }
    audit(conn, lines).await?;
    Ok(closed)
}

/// An installation as it lies in the store.
pub(super) async fn stored_installation(conn: &mut Conn, id: &str) -> Result<Option<Installation>, StoreError> {
    let body: Option<String> = sqlx::query_scalar("SELECT body FROM resources WHERE kind = 'installations' AND id = $1")
        .bind(id)
        .fetch_optional(&mut **conn)
        .await
        .map_err(failed)?;
    body.map(|body| serde_json::from_str(&body).map_err(|e| StoreError::Corrupt(format!("installations/{id}: {e}")))).transpose()
}

/// A profile as it lies in the store.
async fn stored_profile(conn: &mut Conn, id: &ProfileId) -> Result<Option<AppProfile>, StoreError> {
    let body: Option<String> = sqlx::query_scalar("SELECT body FROM resources WHERE kind = 'profiles' AND id = $1")
        .bind(id.as_str())
        .fetch_optional(&mut **conn)
        .await
        .map_err(failed)?;
    body.map(|body| serde_json::from_str(&body).map_err(|e| StoreError::Corrupt(format!("profiles/{id}: {e}")))).transpose()
}

/// An operator's change was planned against what the directory showed; an event may have named the app since.
async fn put_profile(conn: &mut Conn, planned: &AppProfile, secrets: &[SecretPut], now: Timestamp) -> Result<(), StoreError> {
    let mut profile = planned.clone();
    if profile.app().is_none() {
        profile.learned_app_id = stored_profile(conn, &profile.id).await?.and_then(|stored| stored.learned_app_id);
    }
    put(conn, &Resource::Profile(profile), secrets, now).await
}

/// Keeps the app id that a proved event named, with its audit line, where the profile has none yet. The app id that holds from
/// here on, and whether it is the one that was kept now; nothing where the profile is gone.
pub(in crate::store) async fn learn_app(
    conn: &mut Conn,
    id: &ProfileId,
    named: &str,
    line: AuditRecord,
    now: Timestamp,
) -> Result<Option<(String, bool)>, StoreError> {
    let Some(mut profile) = stored_profile(conn, id).await? else { return Ok(None) };
    if let Some(app) = profile.app() {
        return Ok(Some((app.to_owned(), false)));
    }
    profile.learned_app_id = Some(named.to_owned());
    put(conn, &Resource::Profile(profile), &[], now).await?;
    audit(conn, &[line]).await?;
    Ok(Some((named.to_owned(), true)))
}

/// An operator's change was planned against what the directory showed; a provider may have ended or halted the installation
/// since. What came later stands, and revoked ends with a new epoch only.
async fn put_installation(conn: &mut Conn, planned: &Installation, secrets: &[SecretPut], now: Timestamp) -> Result<Vec<Open>, StoreError> {
    let mut installation = planned.clone();
    if let Some(stored) = stored_installation(conn, planned.id.as_str()).await? {
        let revoked = stored.status == InstallationStatus::Revoked && stored.epoch >= planned.epoch;
        if stored.since > planned.since || (revoked && planned.status != InstallationStatus::Revoked) {
            (installation.status, installation.status_reason, installation.since) = (stored.status, stored.status_reason, stored.since);
        }
    }
    write_installation(conn, &installation, now).await?;
    if installation.status == InstallationStatus::Revoked {
        return lifecycle::end(conn, &installation.id, now).await;
    }
    claim_accounts(conn, &installation).await?;
    for put in secrets {
        put_secret(conn, put).await?;
    }
    Ok(Vec::new())
}

/// Writes an installation's row.
pub(super) async fn write_installation(conn: &mut Conn, installation: &Installation, now: Timestamp) -> Result<(), StoreError> {
    put(conn, &Resource::Installation(installation.clone()), &[], now).await
}

async fn put(conn: &mut Conn, resource: &Resource, secrets: &[SecretPut], now: Timestamp) -> Result<(), StoreError> {
    let body = match resource {
        Resource::Org(r) => serde_json::to_string(r),
        Resource::Agent(r) => serde_json::to_string(r),
        Resource::Profile(r) => serde_json::to_string(r),
        Resource::Installation(r) => serde_json::to_string(r),
        Resource::Binding(r) => serde_json::to_string(r),
    };
    let body = body.map_err(|e| StoreError::Unavailable(e.to_string()))?;
    sqlx::query(
        "INSERT INTO resources (kind, id, org, body, created_ms, updated_ms) VALUES ($1, $2, $3, $4, $5, $5) \
         ON CONFLICT (kind, id) DO UPDATE SET org = excluded.org, body = excluded.body, updated_ms = excluded.updated_ms",
    )
    .bind(resource.kind())
    .bind(resource.id())
    .bind(resource.org().map(OrgId::as_str))
    .bind(body)
    .bind(now.ms())
    .execute(&mut **conn)
    .await
    .map_err(failed)?;
    if let Resource::Profile(profile) = resource {
        let taken: Option<String> = sqlx::query_scalar("SELECT profile FROM ingress_ids WHERE ingress_id = $1")
            .bind(profile.ingress_id.as_str())
            .fetch_optional(&mut **conn)
            .await
            .map_err(failed)?;
        if taken.as_deref().is_some_and(|t| t != profile.id.as_str()) {
            return Err(StoreError::Conflict(format!("ingress_id of profile `{}` belongs to another profile", profile.id)));
        }
        sqlx::query(
            "INSERT INTO ingress_ids (ingress_id, profile) VALUES ($1, $2) ON CONFLICT (ingress_id) DO UPDATE SET removed_ms = NULL",
        )
        .bind(profile.ingress_id.as_str())
        .bind(profile.id.as_str())
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
    }
    for put in secrets {
        put_secret(conn, put).await?;
    }
    Ok(())
}

/// A key is kept once: over one that is there, everything under that one would be lost.
async fn keep_key(conn: &mut Conn, put: &SecretPut) -> Result<(), StoreError> {
    let there: Option<i64> = sqlx::query_scalar("SELECT 1 FROM secrets WHERE kind = $1 AND owner = $2 AND field = $3")
        .bind(put.kind)
        .bind(put.owner.as_str())
        .bind(put.secret.field.as_str())
        .fetch_optional(&mut **conn)
        .await
        .map_err(failed)?;
    match there {
        None => put_secret(conn, put).await,
        Some(_) => Err(StoreError::Unavailable(format!("{}/{} has a {} already", put.kind, put.owner, put.secret.field))),
    }
}

pub(super) async fn put_secret(conn: &mut Conn, put: &SecretPut) -> Result<(), StoreError> {
    let s = &put.secret;
    sqlx::query(
        "INSERT INTO secrets (kind, owner, field, slot, id, sealed, fingerprint, set_ms, until_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (kind, owner, field, slot) DO UPDATE SET id = excluded.id, sealed = excluded.sealed, \
         fingerprint = excluded.fingerprint, set_ms = excluded.set_ms, until_ms = excluded.until_ms",
    )
    .bind(put.kind)
    .bind(put.owner.as_str())
    .bind(s.field.as_str())
    .bind(s.slot.as_str())
    .bind(s.id.as_str())
    .bind(s.sealed.clone())
    .bind(s.fingerprint.as_str())
    .bind(s.set.ms())
    .bind(s.until.map(Timestamp::ms))
    .execute(&mut **conn)
    .await
    .map(|_| ())
    .map_err(failed)
}

pub(super) async fn claim_accounts(conn: &mut Conn, installation: &Installation) -> Result<(), StoreError> {
    free_accounts(conn, installation.id.as_str()).await?;
    if !stands(Guard::IdentityTaken) {
        return Ok(());
    }
    if let Some((account, owner)) = bot_owner(installation) {
        own(conn, &account, &owner).await?;
    }
    for (account, owner) in claims(installation) {
        own(conn, &account, &owner).await?;
        sqlx::query("INSERT INTO claims (account, profile, installation, owner) VALUES ($1, $2, $3, $4)")
            .bind(account.as_str())
            .bind(installation.profile.as_str())
            .bind(installation.id.as_str())
            .bind(owner)
            .execute(&mut **conn)
            .await
            .map_err(|e| taken(e, &account))?;
    }
    Ok(())
}

async fn own(conn: &mut Conn, account: &str, owner: &str) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO owners (account, owner) VALUES ($1, $2) ON CONFLICT (account) DO NOTHING")
        .bind(account)
        .bind(owner)
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
    let holder: String =
        sqlx::query_scalar("SELECT owner FROM owners WHERE account = $1").bind(account).fetch_one(&mut **conn).await.map_err(failed)?;
    if holder == owner { Ok(()) } else { Err(StoreError::Conflict(format!("account {account} belongs to another owner"))) }
}

fn taken(error: sqlx::Error, account: &str) -> StoreError {
    match failed(error) {
        StoreError::Conflict(_) => StoreError::Conflict(format!("account {account} belongs to another installation")),
        other => other,
    }
}

/// Lets go of what an installation holds. An account that nobody holds any more has no owner; a bot is held by who holds any of
/// its chats.
pub(super) async fn free_accounts(conn: &mut Conn, installation: &str) -> Result<(), StoreError> {
    let held: Vec<String> = sqlx::query_scalar("DELETE FROM claims WHERE installation = $1 RETURNING account")
        .bind(installation)
        .fetch_all(&mut **conn)
        .await
        .map_err(failed)?;
    for account in &held {
        let bot = account.rsplit_once('/').map(|(bot, _)| bot);
        for account in bot.into_iter().chain([account.as_str()]) {
            sqlx::query(
                "DELETE FROM owners WHERE account = $1 AND NOT EXISTS (SELECT 1 FROM claims WHERE account = $1) \
                 AND NOT EXISTS (SELECT 1 FROM claims WHERE account >= $1 || '/' AND account < $1 || '0')",
            )
            .bind(account)
            .execute(&mut **conn)
            .await
            .map_err(failed)?;
        }
    }
    Ok(())
}

async fn delete(conn: &mut Conn, kind: &str, id: &str, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM resources WHERE kind = $1 AND id = $2").bind(kind).bind(id).execute(&mut **conn).await.map_err(failed)?;
    sqlx::query("DELETE FROM secrets WHERE kind = $1 AND owner = $2").bind(kind).bind(id).execute(&mut **conn).await.map_err(failed)?;
    match kind {
        "profiles" => sqlx::query("UPDATE ingress_ids SET removed_ms = $2 WHERE profile = $1")
            .bind(id)
            .bind(now.ms())
            .execute(&mut **conn)
            .await
            .map(|_| ())
            .map_err(failed),
        "installations" => {
            sqlx::query("DELETE FROM places WHERE installation = $1").bind(id).execute(&mut **conn).await.map_err(failed)?;
            sqlx::query("DELETE FROM files_seen WHERE installation = $1").bind(id).execute(&mut **conn).await.map_err(failed)?;
            free_accounts(conn, id).await
        }
        // Whoever has the name next, in whatever org, says its keys anew: an old one would be answered with what this agent sent.
        "agents" => {
            sqlx::query("UPDATE sends SET key = id WHERE agent = $1").bind(id).execute(&mut **conn).await.map(|_| ()).map_err(failed)
        }
        "bindings" => {
            sqlx::query("DELETE FROM legacy_uses WHERE binding = $1").bind(id).execute(&mut **conn).await.map(|_| ()).map_err(failed)
        }
        _ => Ok(()),
    }
}
