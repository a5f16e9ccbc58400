//! Use cases that remove one person's data: a walk over what an installation has, page by page. Part of `store`, floor 2.

use std::collections::BTreeMap;

use super::person::{Person, Piece};
use super::{Store, StoreError, close, lock, queries};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{InstallationId, OrgId, ProfileId};
use crate::domain::installation::ProviderKind;

/// Whose data is removed: a person by the provider's stable id, as one installation knows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Purge {
    /// The installation.
    pub installation: InstallationId,
    /// The installation's profile.
    pub profile: ProfileId,
    /// The installation's org.
    pub org: OrgId,
    /// The provider.
    pub provider: ProviderKind,
    /// The provider's stable id of the person.
    pub sender: String,
}

/// What a walk found, or removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Purged {
    /// Rows that hold something of the person, by kind.
    pub counts: BTreeMap<&'static str, usize>,
    /// Rows that were looked at.
    pub looked_at: usize,
    /// Where the walk goes on; none when it is at its end.
    pub next: Option<String>,
}

/// Rows that are looked at in one statement, and at most changed in one commit.
const PAGE_ROWS: i64 = 256;

impl Store {
    /// Removes what is one person's, or only counts it. Looks at about `rows_max` rows and goes on from `after`, an earlier walk's
    /// `next`. None when there is no such place to go on from.
    ///
    /// # Errors
    /// When it could not be committed; what was removed before stays removed.
    pub async fn purge(
        &self,
        whose: &Purge,
        after: Option<&str>,
        rows_max: usize,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<Option<Purged>, StoreError> {
        let Some((first, mut behind)) = place(after) else { return Ok(None) };
        let person = Person::find(&self.0.readers, &self.0.keys, whose).await?;
        let mut purged = Purged { counts: Piece::ALL.into_iter().map(|piece| (piece.as_str(), 0)).collect(), ..Purged::default() };
        for piece in Piece::ALL.into_iter().skip_while(|piece| *piece != first) {
            loop {
                if purged.looked_at >= rows_max {
                    purged.next = Some(format!("{}:{behind}", piece.as_str()));
                    return Ok(Some(purged));
                }
                let looked = person.look(&self.0.readers, piece, behind, PAGE_ROWS).await?;
                purged.looked_at += looked.rows;
                if !looked.theirs.is_empty() {
                    *purged.counts.entry(piece.as_str()).or_default() += looked.theirs.len();
                    if !dry_run {
                        self.purge_page(&person, whose, piece, looked.theirs, now).await?;
                        self.pause().await;
                    }
                }
                match looked.last {
                    Some(last) => behind = last,
                    None => break,
                }
            }
            behind = 0;
        }
        if !dry_run {
            // What is noted of their conversations goes even where no session is left of them.
            self.purge_notes(&person, whose, Vec::new()).await?;
            self.refresh_usage().await?;
            self.reload().await?;
        }
        Ok(Some(purged))
    }

    async fn purge_notes(&self, person: &Person, whose: &Purge, sessions: Vec<i64>) -> Result<(), StoreError> {
        let (conversations, installation) = (person.conversations(), whose.installation.clone());
        self.task(move |conn| Box::pin(async move { queries::purge::notes(conn, &installation, &conversations, &sessions).await })).await
    }

    async fn purge_page(
        &self,
        person: &Person,
        whose: &Purge,
        piece: Piece,
        theirs: Vec<(i64, String)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let seqs: Vec<i64> = theirs.iter().map(|(seq, _)| *seq).collect();
        if piece == Piece::Sessions {
            self.purge_notes(person, whose, seqs).await?;
            // Those in which something was said meanwhile have an open delivery, and stay.
            return self.remove_sessions(theirs, now).await.map(|_| ());
        }
        let outbox = self.0.outbox.clone();
        self.task(move |conn| {
            Box::pin(async move {
                let mut closed = Vec::new();
                let done = match piece {
                    Piece::Events => queries::purge::events(conn, &seqs, now, &mut closed).await,
                    Piece::Sends => queries::purge::sends(conn, &seqs).await,
                    Piece::Refusals => queries::purge::refusals(conn, &seqs).await,
                    Piece::Facts => queries::purge::facts(conn, &seqs).await,
                    Piece::Audit => queries::purge::audit_details(conn, &seqs).await,
                    Piece::Sessions => Ok(()),
                };
                done?;
                close(&outbox, &closed);
                if piece == Piece::Facts {
                    // What the writer remembers of questions names rows that are empty now.
                    lock(&outbox).distrust();
                }
                Ok(())
            })
        })
        .await
    }
}

/// Where a walk goes on: a piece and the number behind which it does.
fn place(after: Option<&str>) -> Option<(Piece, i64)> {
    let Some(after) = after else { return Some((Piece::Events, 0)) };
    let (name, seq) = after.split_once(':')?;
    let piece = Piece::ALL.into_iter().find(|piece| piece.as_str() == name)?;
    Some((piece, seq.parse().ok().filter(|seq| *seq >= 0)?))
}
