//! The failure-path matrix as data: `tests/tables/failure_paths/NNN.yaml` is one row, played by the engine that is in the
//! binary (`byoa_gateway::matrix`) against a gateway of its own through its real listeners, for every provider and mode that
//! the row names.
//!
//! What a row expects is checked word by word; everything else that can be seen of it (headers, rows written, metrics,
//! audit) is in `snapshots/`, one file a row.

mod coverage;
mod process;

pub use coverage::hardening_rows;

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::matrix::row::{Row, To};
use byoa_gateway::matrix::{ROWS, Setting, play};
use byoa_gateway::policy::shipped::SHIPPED;

const NOW: i64 = 1_790_000_100;

/// The shipped law.
pub fn setting() -> Setting {
    let law = SHIPPED.iter().filter(|(path, _)| path.ends_with(".cedar"));
    Setting::new(law.map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect(), Timestamp::from_secs(NOW)).unwrap()
}

pub fn read(id: &str) -> Row {
    let (_, text) = ROWS.iter().find(|(row, _)| *row == id).unwrap_or_else(|| panic!("row {id} is not in rows! of src/matrix.rs"));
    let row = Row::read(text).unwrap_or_else(|e| panic!("row {id}: {e}"));
    assert_eq!(row.id, id);
    row
}

async fn row(id: &str) {
    let (row, setting) = (read(id), setting());
    let (mut wrong, mut shown, mut answers) = (Vec::new(), format!("{} {}\n", row.id, row.title), Vec::new());
    for case in row.plays().unwrap() {
        let played = if case.to == To::Proc {
            process::play(&case)
        } else {
            play(&setting, &case).await.unwrap_or_else(|e| panic!("{id}, {}: {e}", case.name()))
        };
        let name = case.name();
        wrong.extend(played.wrong.into_iter().map(|why| format!("{name}: {why}")));
        shown.push_str(&format!("\n## {name}\n{}", played.shown));
        answers.extend(played.answer.map(|answer| (case.to, name, answer)));
    }
    if row.same_answer {
        for pair in answers.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            if pair[0].2 != pair[1].2 {
                wrong.push(format!("{} and {} are answered differently", pair[0].1, pair[1].1));
            }
        }
    }
    assert!(wrong.is_empty(), "row {id}, {}:\n{}\n\n{shown}", row.title, wrong.join("\n"));
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(format!("failure_path_{id}"), shown);
    });
}

macro_rules! rows {
    ($($name:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            row(stringify!($name).trim_start_matches("row_")).await;
        })+

        const TESTS: &[&str] = &[$(stringify!($name)),+];
    };
}

rows! {
    row_001 row_002 row_003 row_004 row_005 row_006 row_007 row_008 row_009 row_010 row_011 row_012 row_013 row_014 row_015 row_016
    row_017 row_018 row_019 row_020 row_021 row_022 row_023 row_024 row_025 row_026 row_027 row_028 row_029 row_030 row_031 row_032
    row_033 row_034 row_035 row_036 row_037 row_038 row_039 row_040 row_041 row_042 row_043 row_044 row_045 row_046 row_047 row_048
    row_049 row_050 row_051 row_052 row_053 row_054 row_055 row_056 row_057 row_058 row_059 row_060 row_061 row_062 row_063 row_064
    row_065 row_066 row_067 row_068 row_069 row_070 row_071 row_072 row_073 row_074 row_075 row_076 row_077 row_078 row_079 row_080
    row_081 row_082 row_083 row_084 row_087 row_088 row_089 row_090 row_091 row_092 row_093 row_094 row_096 row_097 row_099 row_101
    row_102 row_103 row_104 row_105 row_106 row_107 row_108 row_109 row_110 row_112 row_119 row_120 row_121 row_122 row_123 row_124
    row_125 row_126 row_127 row_128 row_129 row_130 row_131 row_132 row_133 row_137 row_140 row_149 row_151 row_152 row_155 row_157
    row_158 row_201 row_202 row_203 row_204 row_206 row_207 row_208 row_209 row_210 row_211 row_212 row_213 row_226 row_227 row_228
    row_229 row_230 row_231 row_233 row_234 row_235 row_236 row_237 row_243 row_245 row_246 row_247 row_248 row_249 row_250 row_252
    row_253 row_254 row_255 row_256 row_257 row_258
}
