"""Granular bit sets and dirty bitmaps: no asyncio, no files."""
