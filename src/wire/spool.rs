//! Files on their way through: written to an unnamed file as they arrive, read from it as they leave. Part of `wire`, floor 1.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::{Stream, try_unfold};

use super::budget::{Budget, Held};
use crate::domain::reason::ReasonCode;

/// A spooled file is read in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

/// Takes files of one request, all into one unnamed file that the system removes when nobody reads it any more.
#[derive(Debug)]
pub struct Spool {
    file: Option<Arc<Spooled>>,
    held: Option<Held>,
    /// The bytes written so far.
    end: u64,
}

#[derive(Debug)]
struct Spooled {
    file: File,
    /// The bytes of the disk's budget.
    held: Mutex<Held>,
}

/// A part of a spooled file. Cheap to clone; can be read as often as it is wanted.
#[derive(Clone, Debug)]
pub struct Slice {
    file: Arc<Spooled>,
    from: u64,
    length: u64,
}

impl PartialEq for Slice {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && (self.from, self.length) == (other.from, other.length)
    }
}

impl Spool {
    /// One that keeps within the share that `name` has of the budget.
    pub fn new(disk: &Budget, name: &str) -> Self {
        Self { file: None, held: Some(disk.hold(Some(name))), end: 0 }
    }

    /// A place behind everything that was written so far.
    ///
    /// # Errors
    /// [`ReasonCode::IngressMemoryFull`] where no file can be made.
    pub async fn begin(&mut self) -> Result<Slice, ReasonCode> {
        let file = match (&self.file, self.held.take()) {
            (Some(file), _) => file.clone(),
            (None, Some(held)) => {
                let file = blocking(tempfile::tempfile).await?;
                self.file.insert(Arc::new(Spooled { file, held: Mutex::new(held) })).clone()
            }
            (None, None) => return Err(ReasonCode::IngressMemoryFull),
        };
        Ok(Slice { file, from: self.end, length: 0 })
    }

    /// Writes more of the slice that was begun last.
    ///
    /// # Errors
    /// [`ReasonCode::IngressMemoryFull`] where the disk, or the budget of it, takes no more.
    pub async fn write(&mut self, slice: &mut Slice, bytes: Bytes) -> Result<(), ReasonCode> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let end = self.end.saturating_add(more);
        let total = usize::try_from(end).map_err(|_| ReasonCode::IngressMemoryFull)?;
        slice.file.held.lock().map_err(|_| ReasonCode::IngressMemoryFull)?.grow(total)?;
        let (file, at) = (slice.file.clone(), self.end);
        blocking(move || file.file.write_all_at(&bytes, at)).await?;
        (self.end, slice.length) = (end, slice.length.saturating_add(more));
        Ok(())
    }
}

impl Slice {
    /// The bytes in it.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The bytes in order, in pieces.
    pub fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
        try_unfold((self, 0u64), |(slice, at)| async move {
            let left = slice.length.saturating_sub(at);
            let size = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            if size == 0 {
                return Ok(None);
            }
            let (file, from) = (slice.file.clone(), slice.from.saturating_add(at));
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; size];
                file.file.read_exact_at(&mut piece, from).map(|()| Bytes::from(piece))
            });
            let piece = read.await.map_err(io::Error::other)??;
            Ok(Some((piece, (slice, at.saturating_add(u64::try_from(size).unwrap_or(u64::MAX))))))
        })
    }

    /// A reader of the bytes, for where nobody waits for anything else.
    pub fn reader(&self) -> impl io::Read + Send + 'static {
        Reader { slice: self.clone(), at: 0 }
    }
}

struct Reader {
    slice: Slice,
    at: u64,
}

impl io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.slice.length.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buf.len());
        let read = self.slice.file.file.read_at(buf.get_mut(..left).unwrap_or_default(), self.slice.from.saturating_add(self.at))?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

/// Runs what waits for the disk away from the runtime's workers.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, ReasonCode> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done);
    done.map_err(|error| {
        tracing::error!(error = %error, "a file on its way through could not be spooled");
        ReasonCode::IngressMemoryFull
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt as _;
    use std::io::Read as _;

    #[tokio::test]
    async fn slices_of_one_file_are_read_as_often_as_wanted_and_the_disk_is_given_back() {
        let disk = Budget::new(4 * 1024 * 1024, 1024 * 1024);
        let mut spool = Spool::new(&disk, "a");
        let (long, short) = (Bytes::from(vec![7u8; 200_000]), Bytes::from_static(b"short"));
        let mut one = spool.begin().await.unwrap();
        for piece in long.chunks(60_000) {
            spool.write(&mut one, Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let mut other = spool.begin().await.unwrap();
        spool.write(&mut other, short.clone()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(one.clone().pieces().try_collect::<Vec<_>>().await.unwrap().concat(), long);
            assert_eq!(other.clone().pieces().try_collect::<Vec<_>>().await.unwrap().concat(), short);
        }
        let mut read = Vec::new();
        one.reader().read_to_end(&mut read).unwrap();
        assert_eq!((read.len(), one.length(), other.length()), (200_000, 200_000, 5));
        assert!(disk.left() < 4 * 1024 * 1024 - 200_000);
        drop((spool, one, other));
        assert_eq!(disk.left(), 4 * 1024 * 1024);
    }

    #[tokio::test]
    async fn a_share_of_the_disk_is_all_that_one_name_gets() {
        let disk = Budget::new(400_000, 100_000);
        let mut spool = Spool::new(&disk, "a");
        let mut slice = spool.begin().await.unwrap();
        assert_eq!(spool.write(&mut slice, vec![0; 90_000].into()).await, Ok(()));
        assert_eq!(spool.write(&mut slice, vec![0; 90_000].into()).await, Err(ReasonCode::IngressMemoryFull));
        assert_eq!(slice.length(), 90_000);
    }
}
