//! What a decision costs beside how many policies: `cargo bench --bench policy_scale`.
//!
//! Part of the platform's own law, and org policies beside it, four to an org, each scoped to its org. One org asks, the same
//! question about ever new conversations, so that no kept answer serves. Each size has a process of its own, or the memory
//! that one size gave back would hide what the next one takes.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::ids::{AgentId, InstallationId, OrgId};
use byoa_gateway::domain::installation::{Ownership, ProviderKind};
use byoa_gateway::policy::{AgentFacts, Freshness, InstallationFacts, OrgFacts, RouteMessage, Snapshot};

// As the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// All policies together.
const SIZES: [usize; 4] = [16, 100, 1_000, 10_000];
/// The part of the platform's law that messages meet: fourteen policies.
const BASE: [&str; 4] = ["10-routing.cedar", "20-sending.cedar", "30-credentials.cedar", "90-guards.cedar"];
const SIZE: &str = "POLICY_SCALE";
const QUESTIONS_MAX: u32 = 20_000;
const QUESTIONS_MIN: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> Outcome<()> {
    if let Ok(size) = env::var(SIZE) {
        return measure(size.parse()?);
    }
    // `cargo test` runs benches too, to see that they run.
    let sizes = if env::args().any(|arg| arg == "--bench") { &SIZES[..] } else { &SIZES[..1] };
    println!("{:>8} {:>6} {:>9} {:>8} {:>9} {:>9} {:>9}", "policies", "files", "load ms", "RSS MiB", "questions", "p50 µs", "p99 µs");
    for size in sizes {
        let status = Command::new(env::current_exe()?).env(SIZE, size.to_string()).status()?;
        if !status.success() {
            return Err(format!("{size} policies: {status}").into());
        }
    }
    Ok(())
}

fn measure(size: usize) -> Outcome<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = root.join("schemas/gateway.cedarschema");
    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("platform"))?;
    for file in BASE {
        fs::copy(root.join("policies/platform").join(file), dir.path().join("platform").join(file))?;
    }
    // Says how many policies are to come, and is kept: what a process needs once is not counted, and what this one holds is
    // not there to be used again.
    let own = Snapshot::load(dir.path(), &schema, Timestamp::default())?;
    write_orgs(dir.path(), size.saturating_sub(own.policies()))?;

    let (before, start) = (resident_kib()?, Instant::now());
    let law = Snapshot::load(dir.path(), &schema, Timestamp::default())?;
    let (load, after) = (start.elapsed(), resident_kib()?);

    let mut took = Vec::new();
    let start = Instant::now();
    for n in 0..QUESTIONS_MAX {
        if n >= QUESTIONS_MIN && start.elapsed() > PATIENCE {
            break;
        }
        let ask = question(n)?;
        let asked = Instant::now();
        let answer = law.decide(ask);
        took.push(asked.elapsed());
        if let Err(denied) = answer {
            return Err(format!("the law should say yes: {denied:?}").into());
        }
    }
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).map_or(0.0, |took| took.as_secs_f64() * 1e6);
    println!(
        "{:>8} {:>6} {:>9.1} {:>8.1} {:>9} {:>9.1} {:>9.1}",
        law.policies(),
        law.files(),
        load.as_secs_f64() * 1e3,
        after.saturating_sub(before) as f64 / 1024.0,
        took.len(),
        at(50),
        at(99),
    );
    drop(own);
    Ok(())
}

/// Four policies to an org, none of which applies to the question.
fn write_orgs(dir: &Path, policies: usize) -> Outcome<()> {
    const KINDS: [(&str, &str); 4] = [
        ("bots", "principal in ORG, action == Byoa::Action::\"RouteMessage\", resource) when { context.fromBot };"),
        ("first", "principal in ORG, action == Byoa::Action::\"SendMessage\", resource) when { !context.reply };"),
        (
            "unsigned",
            "principal, action == Byoa::Action::\"RouteMessage\", resource in ORG) when { context.freshness == Byoa::Freshness::\"unsigned\" };",
        ),
        (
            "unbound",
            "principal, action == Byoa::Action::\"SendMessage\", resource is Byoa::ByoaInstallation in ORG) when { !context.bound };",
        ),
    ];
    for first in (0..policies).step_by(KINDS.len()) {
        let org = format!("org-{}", first / KINDS.len());
        let mut text = String::new();
        for (name, rest) in KINDS.iter().take(policies - first) {
            let rest = rest.replace("ORG", &format!("Byoa::Org::\"{org}\""));
            writeln!(text, "@id(\"org.{org}.{name}\") @reason(\"Not here\") @code(\"policy.forbidden\")\nforbid ({rest}")?;
        }
        let folder = dir.join("orgs").join(org);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("limits.cedar"), text)?;
    }
    Ok(())
}

fn question(n: u32) -> Outcome<RouteMessage> {
    let org = OrgFacts { id: OrgId::parse("org-0")?, suspended: false, fallback_opt_in: Default::default() };
    Ok(RouteMessage {
        installation: InstallationFacts {
            id: InstallationId::parse("org-0-slack")?,
            provider: ProviderKind::Slack,
            owner: Ownership::Org(org.id.clone()),
            stranger: None,
            active: true,
            org: org.clone(),
        },
        agent: AgentFacts { id: AgentId::parse("support")?, org: Some(org) },
        event_type: "message.received",
        conversation: Some(format!("C{n}")),
        conversation_kind: Some("channel"),
        from_bot: false,
        freshness: Freshness::Fresh,
    })
}

fn resident_kib() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
