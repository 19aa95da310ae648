"""The leaderboard: entries of many people, one page per protocol."""
