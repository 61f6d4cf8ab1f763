"""WASM and Lua protocol plugins and BCC probes. Their room; a later issue furnishes it."""
