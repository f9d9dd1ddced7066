//! Plugins that only tests load, each a component of its own (`examples/`): odd ones, and those that mean harm.
