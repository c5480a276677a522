"""Rules that items must fulfil: lengths, language, refusals, and checks of what can be checked."""
