//! The torture test, and its headline: for how long a status has the wrong colour.
//!
//! Objects change from broken to healthy and back. Six vendors break 30 % of their answers, some of them after the
//! write took effect, and Herald is killed every 2 s. Then the faults end and the senders rest. From then on a vendor
//! has [`GRACE`]; what is still green though its object is broken, or red though it is healthy, is counted in
//! seconds for each status, and there must be none. Besides, no write ever put an older state over a newer one, every
//! status is the last one, and nothing is left in the outbox.
//!
//! Then the same without kills, each vendor broken in one way altogether: pauses have grown by the time it works again.
//! And the same with each vendor refusing everything, 401, a plain 403 or 404, until people mend it: the Secret changes,
//! or an operator has one notification tried (by itself Herald would try one after 10 minutes;
//! `what_a_repository_refused_…` in `tests/it/budget.rs` turns the clock for that).
//!
//! And the same with vendors that do a share of what they are asked after Herald gave it up: there an older state does
//! come over a newer one, by the vendor's doing, and must not stay for longer than [`LATE_GRACE`].
//!
//! A state is told by its reason, so that each write at a vendor names the change it tells of. Every fourth object has
//! plain reasons instead, and so comes back to what it said before.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::child::Child;
use super::long;
use super::sender::Sender;
use super::support::flux::{FluxEvent, Folder, Manifest, alert, kustomization_event, provider, secret, sha};
use super::support::forge::{Fault, Forge, Status};
use super::support::wait;

/// The six Git hosts; also the namespace of what is told to each.
const VENDORS: [&str; 6] = ["azuredevops", "bitbucket", "bitbucketserver", "gitea", "github", "gitlab"];

/// The share of a vendor's answers that is broken.
const BROKEN: f64 = 0.3;

/// How long after the end of its faults a vendor may still show what is not so.
const GRACE: Duration = Duration::from_secs(30);

/// The same of a vendor that does things late: Herald gives a request up after two seconds, and looks half a minute
/// later.
const LATE_GRACE: Duration = Duration::from_secs(40);

/// How long after the faults it is watched, when something is still wrong.
const WATCHED: Duration = Duration::from_secs(90);

const KILL_EVERY: Duration = Duration::from_secs(2);

/// Objects that tell of one commit.
const PER_COMMIT: usize = 4;

struct Form {
    objects: usize,
    /// After the first state.
    changes_each: usize,
    /// How long the faults last; changes come as long.
    lasting: Duration,
    /// What breaks at the vendor of this number.
    faults: fn(usize) -> Vec<Fault>,
    kills: bool,
    /// How people mend the vendor of this number, if Herald does not see by itself that it works again.
    mend: fn(usize) -> Option<Mend>,
    /// Whether vendors do things late.
    late: bool,
}

impl Form {
    /// Vendors that end their faults by themselves, and a Herald that nobody kills.
    fn new(objects: usize, changes_each: usize, seconds: u64, faults: fn(usize) -> Vec<Fault>) -> Self {
        let lasting = Duration::from_secs(seconds);
        Self { objects, changes_each, lasting, faults, kills: false, mend: |_| None, late: false }
    }
}

/// What people do once a vendor works again that refused everything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mend {
    /// They give another token.
    Secret,
    /// They have one notification tried.
    Retry,
}

/// What an object is, from one moment on.
#[derive(Clone, Debug)]
struct Truth {
    since: Timestamp,
    healthy: bool,
    description: String,
}

struct Object {
    vendor: usize,
    name: String,
    commit: String,
    truths: Mutex<Vec<Truth>>,
}

impl Object {
    fn new(number: usize) -> Self {
        let commit = sha((number / VENDORS.len() / PER_COMMIT + 1) as u64);
        Self { vendor: number % VENDORS.len(), name: format!("app-{number}"), commit, truths: Mutex::default() }
    }

    /// Whether its reasons tell the changes apart.
    fn is_numbered(&self) -> bool {
        !self.name.ends_with(['0', '4', '8'])
    }

    /// It changes, now. The event that tells of it.
    fn change(&self) -> FluxEvent {
        let mut truths = self.truths.lock();
        let healthy = truths.last().is_none_or(|last| !last.healthy);
        let plain = if healthy { "ReconciliationSucceeded" } else { "HealthCheckFailed" };
        let reason = if self.is_numbered() { format!("Change{}", truths.len()) } else { plain.to_owned() };
        let description = herald::compose::text::words(&reason);
        truths.push(Truth { since: Timestamp::now(), healthy, description });
        let event = kustomization_event(&self.name, &self.commit).namespace(VENDORS[self.vendor]);
        if healthy { event.reason(&reason) } else { event.failed(&reason) }
    }

    /// Every write of its status, in order.
    fn writes(&self, forge: &Forge) -> Vec<Status> {
        let label = format!("kustomization/{}", self.name);
        // Where the context is a hash, people are shown a name; of each the label is the beginning.
        let is_its = |status: &Status| {
            let shown = status.name.as_ref().unwrap_or(&status.context);
            shown.strip_prefix(&label).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
        };
        forge.statuses(&self.commit).into_iter().filter(is_its).collect()
    }

    fn is_right(&self, forge: &Forge) -> bool {
        let (writes, truths) = (self.writes(forge), self.truths.lock());
        match (writes.last(), truths.last()) {
            (Some(status), Some(truth)) => says(status, truth),
            (status, truth) => status.is_none() && truth.is_none(),
        }
    }

    /// The first write that put an older state over a newer one.
    fn step_back(&self, forge: &Forge) -> Option<(Status, Status)> {
        let writes = self.writes(forge);
        let place = |status: &Status| self.truths.lock().iter().position(|truth| says(status, truth));
        let back = |pair: &&[Status]| place(&pair[1]) < place(&pair[0]);
        let pair = writes.windows(2).filter(|_| self.is_numbered()).find(back)?;
        Some((pair[0].clone(), pair[1].clone()))
    }

    /// Seconds in which the vendor showed the other colour than the object's, until `end`. What is not there yet has
    /// no colour.
    fn wrong(&self, forge: &Forge, from: Timestamp, end: Timestamp) -> f64 {
        let (writes, truths) = (self.writes(forge), self.truths.lock());
        let mut moments: Vec<Timestamp> = writes.iter().map(|status| status.created).collect();
        moments.extend(truths.iter().map(|truth| truth.since));
        moments.extend([from, end]);
        moments.retain(|moment| (from..=end).contains(moment));
        moments.sort_unstable();
        let is_wrong = |at: Timestamp| {
            let shown = writes.iter().rfind(|status| status.created <= at).map(is_green);
            let truth = truths.iter().rfind(|truth| truth.since <= at).map(|truth| truth.healthy);
            shown.zip(truth).is_some_and(|(shown, truth)| shown != truth)
        };
        let spans = moments.windows(2).filter(|span| is_wrong(span[0]));
        spans.map(|span| span[1].duration_since(span[0]).as_secs_f64()).fold(0.0, |sum, seconds| sum + seconds)
    }
}

fn is_green(status: &Status) -> bool {
    ["success", "successful", "succeeded"].contains(&status.state.to_lowercase().as_str())
}

fn says(status: &Status, truth: &Truth) -> bool {
    is_green(status) == truth.healthy && status.description.as_deref() == Some(truth.description.as_str())
}

/// A share of a vendor's answers is broken: each kind as often as the others.
fn a_share(_vendor: usize) -> Vec<Fault> {
    let kinds = [
        Fault::answer(500),
        Fault::answer(500).afterwards(),
        Fault::answer(502),
        Fault::answer(502).afterwards(),
        Fault::answer(429).header("retry-after", "1"),
        Fault::answer(403).header("retry-after", "2"),
        Fault::reset(),
        Fault::reset().afterwards(),
        Fault::hang(),
        Fault::hang().afterwards(),
        Fault::half_body(),
    ];
    let share = BROKEN / kinds.len() as f64;
    // The first that strikes decides, so a later one must strike more often among what is left.
    kinds.into_iter().zip(0..).map(|(fault, at)| fault.chance(share / (1.0 - share * f64::from(at)))).collect()
}

/// A share of the writes gets no answer, and is done seconds after Herald gave it up.
fn late(_vendor: usize) -> Vec<Fault> {
    vec![Fault::hang().lands_after(Duration::from_secs(5)).writes().chance(BROKEN)]
}

/// Every answer of a vendor is broken, in a way of its own.
fn everything(vendor: usize) -> Vec<Fault> {
    let kinds: [Fault; VENDORS.len()] = [
        Fault::answer(500).afterwards(),
        Fault::hang(),
        Fault::answer(403).header("retry-after", "2"),
        Fault::reset(),
        Fault::answer(502),
        Fault::answer(429).header("retry-after", "1"),
    ];
    vec![kinds[vendor].clone().every(1)]
}

/// Vendors are read as ever, and take nothing.
fn writes(_vendor: usize) -> Vec<Fault> {
    vec![Fault::answer(500).writes().every(1)]
}

/// Every answer of a vendor is a refusal that stands until somebody does something.
fn refusals(vendor: usize) -> Vec<Fault> {
    let kinds: [Fault; VENDORS.len()] = [
        Fault::answer(401),
        Fault::answer(403),
        Fault::answer(404),
        Fault::answer(404).writes(),
        Fault::answer(401).writes(),
        Fault::answer(403).writes(),
    ];
    vec![kinds[vendor].clone().every(1)]
}

/// What ends each of the [`refusals`].
fn mended(vendor: usize) -> Option<Mend> {
    Some([Mend::Secret, Mend::Retry, Mend::Retry, Mend::Retry, Mend::Secret, Mend::Retry][vendor])
}

fn manifests(vendor: &str, forge: &Forge) -> [Manifest; 3] {
    let url = forge.url();
    let address = match vendor {
        "azuredevops" => format!("{url}/org/project/_git/fleet"),
        "bitbucketserver" => format!("{url}/scm/acme/fleet.git"),
        // Its API is where the flag says.
        "bitbucket" => "https://bitbucket.org/acme/fleet".to_owned(),
        _ => format!("{url}/acme/fleet"),
    };
    let provider = provider(vendor, "git", &address).secret("token").spec("timeout", "2s");
    // Names of statuses have the beginning of the UID, which is another one in every namespace.
    [provider, alert("all", "git"), secret("token", "token", "only-for-tests")].map(|it| it.namespace(vendor))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_rest_every_status_is_the_last_one() {
    let (changes_each, seconds) = if long() { (20, 600) } else { (3, 50) };
    endure(Form { kills: true, ..Form::new(500, changes_each, seconds, a_share) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_leaves_no_wrong_colour() {
    let (changes_each, seconds) = if long() { (20, 600) } else { (2, 30) };
    endure(Form::new(500, changes_each, seconds, everything)).await;
}

/// The host works, as far as anybody can tell from what it answers to a look; so nothing holds back each single job,
/// and its pauses grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_writes_leaves_no_wrong_colour() {
    let (changes_each, seconds) = if long() { (8, 420) } else { (2, 15) };
    endure(Form::new(500, changes_each, seconds, writes)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_late_leaves_no_wrong_colour() {
    let (objects, changes_each, seconds) = if long() { (500, 12, 120) } else { (300, 4, 20) };
    endure(Form { late: true, ..Form::new(objects, changes_each, seconds, late) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_and_is_mended_has_no_wrong_colour() {
    // Shorter than the ten minutes after which a canary finds out that all was mended.
    let (objects, changes_each, seconds) = if long() { (500, 20, 300) } else { (300, 2, 20) };
    endure(Form { mend: mended, ..Form::new(objects, changes_each, seconds, refusals) }).await;
}

async fn endure(form: Form) {
    let mut forges = Vec::new();
    for _ in VENDORS {
        forges.push(Forge::start("127.0.0.1:0").await.expect("a free port"));
    }
    let folder = Folder::with(VENDORS.iter().zip(&forges).flat_map(|(vendor, forge)| manifests(vendor, forge)));
    let bitbucket = format!("--bitbucket-api-base-url={}/2.0", forges[1].url());
    let mut herald = Child::start(folder.path(), &[&bitbucket]).await;
    let objects: Vec<Arc<Object>> = (0..form.objects).map(|number| Arc::new(Object::new(number))).collect();
    let sender = Arc::new(Sender::to(&herald.events_url));
    // All is well at first, and every vendor shows so.
    stream::iter(&objects).for_each_concurrent(32, |object| sender.insist(object.change())).await;
    let is_right = |object: &Arc<Object>| object.is_right(&forges[object.vendor]);
    let wrong_yet = || objects.iter().filter(|object| !is_right(object)).count();
    wait::until(WATCHED, "the first statuses", || async { (wrong_yet() == 0).then_some(()) }).await;
    for (number, forge) in forges.iter().enumerate() {
        (form.faults)(number).into_iter().for_each(|fault| forge.fail(fault));
    }

    let start = Instant::now();
    let senders: Vec<_> = objects
        .iter()
        .map(|object| tokio::spawn(live(object.clone(), sender.clone(), start, form.lasting, form.changes_each)))
        .collect();
    let mut kill = interval(KILL_EVERY);
    kill.set_missed_tick_behavior(MissedTickBehavior::Delay);
    kill.tick().await;
    let mut kills = 0;
    while start.elapsed() < form.lasting || !senders.iter().all(JoinHandle::is_finished) {
        kill.tick().await;
        if form.kills {
            herald.kill();
            herald.resume().await;
            kills += 1;
        }
    }
    join_all(senders).await.into_iter().for_each(|end| end.expect("a sender does not panic"));

    // Peace. Everything was taken, and nobody changes any more.
    forges.iter().for_each(Forge::recover);
    let (peace, rested) = (Timestamp::now(), Instant::now());
    for (number, vendor) in VENDORS.iter().enumerate() {
        match (form.mend)(number) {
            None => {}
            Some(Mend::Secret) => drop(folder.write(&secret("token", "token", "another").namespace(vendor))),
            Some(Mend::Retry) => {
                let tried = async || if herald.retry_one_in(vendor) { Ok(()) } else { Err(herald.outbox_ls()) };
                wait::until_ok(GRACE, &format!("a job at {vendor}"), tried).await;
            }
        }
    }
    while (wrong_yet() > 0 || herald.held() > 0) && rested.elapsed() < WATCHED {
        sleep(Duration::from_millis(250)).await;
    }
    let (took, end) = (rested.elapsed(), Timestamp::now());
    let grace = if form.late { LATE_GRACE } else { GRACE };

    let mut table = String::from("\nvendor           changes  writes  wrong s  after  faults\n");
    let mut wrong_after = 0.0;
    for (number, (vendor, forge)) in VENDORS.iter().zip(&forges).enumerate() {
        let its = || objects.iter().filter(|object| object.vendor == number);
        let changes: usize = its().map(|object| object.truths.lock().len()).sum();
        let writes: usize = its().map(|object| object.writes(forge).len()).sum();
        let sum = |from, to| its().map(|object| object.wrong(forge, from, to)).fold(0.0, |sum, seconds| sum + seconds);
        let (wrong, after) = (sum(Timestamp::UNIX_EPOCH, peace), sum(peace + grace, end));
        wrong_after += after;
        let faults: Vec<String> = forge.struck().iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        let _ =
            writeln!(table, "{vendor:15}  {changes:7}  {writes:6}  {wrong:7.0}  {after:5.1}  {}", faults.join(", "));
    }
    let [again, given_up] = [&sender.again, &sender.given_up].map(|count| count.load(Ordering::Relaxed));
    let _ = writeln!(
        table,
        "{} objects, faults for {:.0} s, {kills} kills; senders tried {again} times again, began {given_up} times anew; \
         all was right {:.1} s after the faults\n\
         slot-minutes of a wrong colour later than {} s after the faults: {:.2}",
        objects.len(),
        form.lasting.as_secs_f64(),
        took.as_secs_f64(),
        grace.as_secs(),
        wrong_after / 60.0,
    );
    // In one piece: another test may print at the same time.
    println!("{table}");

    assert!(forges.iter().all(|forge| !forge.struck().is_empty()), "every vendor broke answers");
    for object in &objects {
        let forge = &forges[object.vendor];
        let told = || {
            let writes: Vec<_> = object.writes(forge).iter().map(ToString::to_string).collect();
            let name = format!("/{}\"", object.name);
            format!(
                "{}\nand its log\n{}\nand what waits\n{}",
                writes.join("\n"),
                herald.log_of(&name),
                herald.outbox_ls()
            )
        };
        let (vendor, name) = (VENDORS[object.vendor], &object.name);
        assert!(is_right(object), "{vendor}, {name} is {:?}, told was\n{}", object.truths.lock().last(), told(),);
        let back = object.step_back(forge);
        assert!(
            form.late || back.is_none(),
            "{vendor}, {name}: an older state was put over a newer one: {back:?}, of\n{}",
            told()
        );
    }
    let backs = || objects.iter().filter(|object| object.step_back(&forges[object.vendor]).is_some()).count();
    assert!(!form.late || backs() > 0, "some of what was done late came over what is newer");
    assert_eq!(wrong_after, 0.0, "seconds in which a status had the wrong colour");
    assert!(herald.outbox_ls().starts_with("nothing waits"), "{}", herald.outbox_ls());
}

/// One object's life: its changes come at times of their own, each once the one before was taken.
async fn live(object: Arc<Object>, sender: Arc<Sender>, start: Instant, lasting: Duration, changes: usize) {
    let mut times: Vec<f64> = (0..changes).map(|_| fastrand::f64()).collect();
    times.sort_unstable_by(f64::total_cmp);
    for time in times {
        sleep_until(start + lasting.mul_f64(time * 0.9)).await;
        sender.insist(object.change()).await;
    }
}
