//! Plugins that only tests load, each as a separate component in `examples/`: unusual ones and
//! malicious ones.

pub mod ledger;
