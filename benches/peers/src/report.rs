use std::path::Path;
use crate::rounds::{Results, Options};
use crate::limits::LIMITS;
use crate::works;
pub(crate) fn write(_out: &Path, results: &Results, _o: &Options) { println!("{}", tables(results)); }
pub(crate) fn tables(results: &Results) -> String {
    let mut out = String::new();
    for work in works::all() {
        for engine in work.engines {
            for field in ["seconds","p50","p99","bytes","ratio","threads","wakeups"] {
                if let Some(s) = results.spread((work.name, engine, field)) {
                    out += &format!("{:<20} {:<14} {:<8} {:>14.9} ({:.9} .. {:.9})\n", work.name, engine, field, s.median, s.least, s.most);
                }
            }
        }
    }
    for limit in LIMITS {
        let m = limit.measured(results);
        out += &format!("{:<20} {:<12} {:<50} {}\n", limit.work, limit.engine, limit.text(results),
            m.map_or("not measured".into(), |m| format!("{:.3} ({:.3} .. {:.3}) {}", m.median, m.least, m.most, if limit.is_met(&m) {"met"} else {"missed"})));
    }
    out
}
