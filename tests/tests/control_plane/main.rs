//! The real `causeway-proxy`, and a lab, on a real control plane: etcd and kube-apiserver out of the
//! folder that `KUBEBUILDER_ASSETS` names. Without that variable every test of these is reported as
//! ignored, and the reason is said: a skip must not look like a pass.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what these tests cannot do fails them; without the standard harness lints don't know"
)]

mod lab;
mod lists;
mod outages;
mod permissions;
mod site;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use netns_lab::control_plane::VARIABLE;

/// All of them, by name.
const TESTS: [(&str, fn()); 11] = [
    (
        "lists::streamed_lists_and_changes_reach_the_kernel",
        lists::streamed_lists_and_changes_reach_the_kernel,
    ),
    (
        "lists::a_server_without_streamed_lists_is_listed_by_pages",
        lists::a_server_without_streamed_lists_is_listed_by_pages,
    ),
    (
        "lists::bookmarks_keep_a_quiet_watch_alive",
        lists::bookmarks_keep_a_quiet_watch_alive,
    ),
    (
        "outages::killed_and_restarted_it_is_caught_up_with",
        outages::killed_and_restarted_it_is_caught_up_with,
    ),
    (
        "outages::etcd_killed_and_restarted_takes_nothing_away",
        outages::etcd_killed_and_restarted_takes_nothing_away,
    ),
    (
        "outages::after_410_everything_is_listed_again",
        outages::after_410_everything_is_listed_again,
    ),
    (
        "outages::of_two_servers_one_is_enough",
        outages::of_two_servers_one_is_enough,
    ),
    (
        "permissions::a_token_that_ends_is_replaced",
        permissions::a_token_that_ends_is_replaced,
    ),
    (
        "permissions::what_is_forbidden_is_named_and_costs_nothing",
        permissions::what_is_forbidden_is_named_and_costs_nothing,
    ),
    (
        "lab::a_lab_works_on_it_and_leaves_nothing",
        lab::a_lab_works_on_it_and_leaves_nothing,
    ),
    (
        "lab::a_daemon_that_is_killed_takes_it_along",
        lab::a_daemon_that_is_killed_takes_it_along,
    ),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let skipped = std::env::var_os(VARIABLE).is_none_or(|folder| folder.is_empty());
    let trials = TESTS.map(|(name, test)| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(skipped)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    if skipped && !arguments.list {
        println!("SKIPPED: the tests on a real control plane: {VARIABLE} is not set\n");
    }
    conclusion.exit_code()
}
