"""What tests share: inputs made or kept, servers, models, oracles, an emulated GPU."""
