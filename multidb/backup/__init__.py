"""Backup sets."""
