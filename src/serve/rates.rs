//! How often one client may ask: an address, or all of an IPv6 network of 64 bits, which one host can have.
//!
//! The algorithm is the generic cell rate algorithm (ITU-T I.371, as the crate `governor` has it): a second's worth at once, then one at
//! a time. A client that is turned away costs a look into a table, and the table holds no more than who has asked in the last second.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Clients from which on those that have not asked in the last second are forgotten.
const CLIENTS: usize = 4_096;

/// What every client may ask in a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Requests; 0 for any number.
    pub(super) per_second: u32,
    /// The key that says so.
    pub(super) key: &'static str,
}

/// Who has asked how often.
pub(super) struct Rates {
    pub(super) rate: Rate,
    limiter: Option<DefaultKeyedRateLimiter<IpAddr>>,
}

impl Rates {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, limiter: NonZeroU32::new(rate.per_second).map(|most| RateLimiter::keyed(Quota::per_second(most))) }
    }

    /// Takes note of a request; returns whether it is to be answered.
    pub(super) fn allows(&self, client: IpAddr) -> bool {
        let Some(limiter) = &self.limiter else { return true };
        if limiter.len() >= CLIENTS {
            limiter.retain_recent();
        }
        limiter.check_key(&network(client)).is_ok()
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_second: u32) -> Rates {
        Rates::new(Rate { per_second, key: "a.key" })
    }

    /// How many of a thousand requests are allowed.
    fn allowed(rates: &Rates, client: &str) -> usize {
        (0..1_000).filter(|_| rates.allows(client.parse().unwrap())).count()
    }

    #[test]
    fn a_client_that_comes_too_often_is_turned_away_and_no_other() {
        let rates = rates(10);
        assert!((10..1_000).contains(&allowed(&rates, "10.0.0.1")));
        assert!(rates.allows("10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn a_network_that_one_host_can_have_is_one_client() {
        assert_eq!(network("2001:db8::1".parse().unwrap()), network("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(network("2001:db8::1".parse().unwrap()), network("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), network("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn without_a_limit_everything_is_answered() {
        assert_eq!(allowed(&rates(0), "10.0.0.1"), 1_000);
    }

    #[test]
    fn who_asks_no_more_is_forgotten() {
        let rates = rates(1_000_000);
        for client in 0..u32::try_from(CLIENTS * 10).unwrap() {
            rates.allows(IpAddr::V4(client.into()));
        }
        let held = rates.limiter.as_ref().unwrap().len();
        assert!(held < CLIENTS * 2, "{held}");
    }
}
