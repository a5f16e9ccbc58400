//! How many calls each agent and each org has under way: whoever has as many as may be is told to come again, so that no agent
//! takes what belongs to all. Part of `egress`, floor 7.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Egress;
use crate::domain::ids::{AgentId, OrgId};
use crate::domain::installation::Agent;
use crate::domain::reason::ReasonCode;

/// An org's agents together have as many calls as this number of agents may have alone.
const AGENTS_AT_FULL: usize = 4;

/// Who has calls under way. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    agents: HashMap<AgentId, usize>,
    orgs: HashMap<OrgId, usize>,
}

/// A call that is under way until this is dropped.
#[derive(Debug)]
pub struct Underway {
    calls: Calls,
    agent: AgentId,
    org: Option<OrgId>,
}

impl Calls {
    fn begin(&self, agent: &Agent, calls_max: usize) -> Option<Underway> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_agent = counts.agents.get(&agent.id).copied().unwrap_or(0);
        let of_org = agent.org.as_ref().and_then(|org| counts.orgs.get(org)).copied().unwrap_or(0);
        if of_agent >= calls_max || of_org >= calls_max.saturating_mul(AGENTS_AT_FULL) {
            return None;
        }
        counts.agents.insert(agent.id.clone(), of_agent + 1);
        if let Some(org) = &agent.org {
            counts.orgs.insert(org.clone(), of_org + 1);
        }
        Some(Underway { calls: self.clone(), agent: agent.id.clone(), org: agent.org.clone() })
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut counts = self.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { agents, orgs } = &mut *counts;
        one_less(agents, &self.agent);
        if let Some(org) = &self.org {
            one_less(orgs, org);
        }
    }
}

fn one_less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            counts.remove(key);
        }
    }
}

impl Egress {
    /// Begins a call of an agent.
    ///
    /// # Errors
    /// [`ReasonCode::EgressTooManyCalls`] where the agent or its org has as many under way as may be.
    pub fn begin(&self, agent: &Agent) -> Result<Underway, ReasonCode> {
        self.calls.begin(agent, self.limits.agent_calls_max).ok_or(ReasonCode::EgressTooManyCalls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::installation::{AgentStatus, DeliveryFormat};

    fn agent(id: &str, org: Option<&str>) -> Agent {
        Agent {
            id: AgentId::parse(id).unwrap(),
            org: org.map(|org| OrgId::parse(org).unwrap()),
            endpoint: "http://127.0.0.1:9/".into(),
            format: DeliveryFormat::Cloudevents,
            status: AgentStatus::Active,
            synchronous: Default::default(),
        }
    }

    #[test]
    fn an_agent_and_an_org_have_so_many_calls_and_another_has_its_own() {
        let calls = Calls::default();
        let agents: Vec<Agent> = (0..5).map(|n| agent(&format!("acme-{n}"), Some("acme"))).collect();
        let mut under_way: Vec<Underway> = Vec::new();
        for agent in &agents[..AGENTS_AT_FULL] {
            under_way.extend([calls.begin(agent, 2).unwrap(), calls.begin(agent, 2).unwrap()]);
            assert!(calls.begin(agent, 2).is_none(), "one too many of an agent");
        }
        assert!(calls.begin(&agents[4], 2).is_none(), "one too many of the org");
        let other = calls.begin(&agent("globex-0", Some("globex")), 2);
        let platform = calls.begin(&agent("of-the-platform", None), 2);
        assert!(other.is_some() && platform.is_some());
        under_way.remove(0);
        let next = calls.begin(&agents[4], 2);
        assert!(next.is_some(), "one ended");
        drop((under_way, other, platform, next));
        let counts = calls.0.lock().unwrap();
        assert!(counts.agents.is_empty() && counts.orgs.is_empty(), "whoever has none is forgotten");
    }
}
