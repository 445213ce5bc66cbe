//! The plugin under real container runtimes. It never runs in production, and never touches the
//! machine's own network, containers or cgroups other than those it makes.
