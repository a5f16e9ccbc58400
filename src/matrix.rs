//! The failure-path matrix, played by this build against itself: each row of `tests/tables/failure_paths` is in the binary, and
//! each case of it gets a gateway of its own, on a scratch store, over real sockets, by a clock that stands still. Owns those
//! gateways and their outside world. Never touches the store, the keys or the settings of the gateway that asks. Floor 10.

pub mod loopback;
pub mod row;
pub mod step;
pub mod wire;
pub mod world;

mod bench;
mod judge;
mod outside;
mod play;
mod run;
mod stage;
mod story;

use std::sync::Arc;

pub use bench::Setting;
pub use play::{Played, play};

use crate::domain::installation::ProviderKind;
use crate::domain::matrix::Player;
use row::{Play, Row};

macro_rules! rows {
    ($($id:literal),+ $(,)?) => {
        /// Each row's number, and its text.
        pub const ROWS: &[(&str, &str)] = &[$(($id, include_str!(concat!("../tests/tables/failure_paths/", $id, ".yaml")))),+];
    };
}

// A test fails when a row's file is not here.
rows! {
    "001", "002", "003", "004", "005", "006", "007", "008", "009", "010", "011", "012", "013", "014", "015", "016",
    "017", "018", "019", "020", "021", "022", "023", "024", "025", "026", "027", "028", "029", "030", "031", "032",
    "033", "034", "035", "036", "037", "038", "039", "040", "041", "042", "043", "044", "045", "046", "047", "048",
    "049", "050", "051", "052", "053", "054", "055", "056", "057", "058", "059", "060", "061", "062", "063", "064",
    "065", "066", "067", "068", "069", "070", "071", "072", "073", "074", "075", "076", "077", "078", "079", "080",
    "081", "082", "083", "084", "087", "088", "089", "090", "091", "092", "093", "094", "096", "097", "099", "101",
    "102", "103", "104", "105", "106", "107", "108", "109", "110", "112", "119", "120", "121", "122", "123", "124",
    "125", "126", "127", "128", "129", "130", "131", "132", "133", "137", "140", "149", "151", "152", "155", "157",
    "158", "201", "202", "203", "204", "206", "207", "208", "209", "210", "211", "212", "213", "226", "227", "228",
    "229", "230", "231", "233", "234", "235", "236", "237", "243", "245", "246", "247", "248", "249", "250", "252",
    "253", "254", "255", "256", "257", "258",
}

/// Every case that can be played for these providers, in the order of the rows.
///
/// # Errors
/// What is wrong with a row: none of this build's, or its tests had failed.
pub fn plays(providers: &[ProviderKind]) -> Result<Vec<Play>, String> {
    let mut all = Vec::new();
    for (id, text) in ROWS {
        let row = Row::read(text).map_err(|e| format!("row {id}: {e}"))?;
        all.extend(row.plays()?.into_iter().filter(|play| play.to.provider().is_some_and(|p| providers.contains(&p))));
    }
    Ok(all)
}

/// Whoever plays the rows that are in the binary.
pub fn player() -> Arc<dyn Player> {
    Arc::new(run::Embedded)
}
