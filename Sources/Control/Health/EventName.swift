/// What happened, as the log names it: `event=lease_acquired`. The names are a contract with operators, whose alarms
/// look for them; docs/operations.md explains each.
public enum EventName: String, Sendable, CaseIterable, CustomStringConvertible {
    // MARK: The daemon's life

    case starting = "starting"
    case ready = "ready"
    case stopping = "stopping"
    case stopped = "stopped"
    case takenOver = "taken_over"
    case handedOver = "handed_over"
    case handOverFailed = "hand_over_failed"
    case inherited = "inherited"
    case notInherited = "not_inherited"
    case stoppedWithoutWaiting = "stopped_without_waiting_any_longer"
    case flagWithoutEffect = "flag_without_effect"
    case configurationReloaded = "configuration_reloaded"
    case nothingToReload = "nothing_to_reload"
    case reloadFailed = "reload_failed"
    case noStatusSocket = "no_status_socket"
    case logLinesLost = "log_lines_lost"
    case problem = "problem"
    case problemOver = "problem_over"

    // MARK: The node's identity and its subnet

    case identityNotKept = "identity_not_kept"
    case identityIsAnother = "identity_is_another_one"
    case previousSubnetUnknown = "previous_subnet_not_known"
    case subnetFileChanged = "subnet_file_changed"
    case subnetFileRemoved = "subnet_file_removed"

    // MARK: The underlay and the data plane

    case waitingForUnderlay = "waiting_for_an_underlay"
    case underlayChosen = "underlay_chosen"
    case underlayChanged = "underlay_changed"
    case waitingForTunnelDevice = "waiting_for_the_tunnel_device"
    case waitingForPort = "waiting_for_the_port"
    case tunnelDeviceLost = "tunnel_device_lost"
    case dataPlaneStarted = "data_plane_started"
    case dataPlaneReplaced = "data_plane_replaced"
    case dataPlaneNotReplaced = "data_plane_not_replaced"
    case formerPortClosed = "former_port_closed"
    case dataPlaneEnded = "data_plane_ended"
    case uringForbidden = "io_uring_is_not_to_be_had_plain_system_calls_are_used"
    case kernelPathRefused = "kernel_path_is_not_to_be_had_packet_threads_carry_everything"
    case fallbackTaken = "fallback_taken"
    case setUpFailed = "set_up_failed"
    case rulesByAnotherProgram = "rules_by_another_program"

    // MARK: Peers

    case peerAdded = "peer_added"
    case peerRemoved = "peer_removed"
    case ownLeaseChanged = "own_lease_changed"
    case packetDropped = "packet_dropped"

    // MARK: The kernel's state

    case itemSet = "item_set"
    case itemWithdrawn = "item_withdrawn"
    case restored = "restored"
    case cannotRestore = "cannot_restore"
    case cannotWithdraw = "cannot_withdraw"
    case pruned = "pruned"
    case deviceLost = "device_lost"
    case cannotReadNetworkState = "cannot_read_the_network_s_state"
    case noMoreNotifications = "no_more_notifications_of_network_changes"
    case narrowPath = "narrow_path"
    case pathIsWideAgain = "path_is_wide_again"

    // MARK: The network's configuration

    case noNetworkConfiguration = "no_network_configuration_waiting_for_one"
    case networkConfigurationIsWrong = "network_configuration_is_wrong"
    case networkConfigurationTakenOver = "network_configuration_taken_over"
    case networkConfigurationDoesNotAdmitSubnet =
        "network_configuration_does_not_admit_this_node_s_subnet_restart_to_take_it_over"

    // MARK: This node's lease

    case leaseDecision = "lease_decision"
    case leaseAcquired = "lease_acquired"
    case leaseRenewed = "lease_renewed"
    case leaseReleased = "lease_released"
    case leaseIsReservation = "lease_found_it_is_a_reservation"
    case leaseMadeReservation = "this_node_s_lease_was_made_a_reservation"
    case leaseIsGone = "this_node_s_lease_is_gone_from_the_store_registering_it_again"
    case anotherNodeWasFaster = "another_node_was_faster_trying_the_next_subnet"
    case noSubnetIsFree = "no_subnet_is_free_waiting_for_one"
    case reservationDoesNotFit =
        "the_reservation_for_this_node_does_not_fit_the_network_configuration_not_used"
    case subnetLost = "subnet_lost_to_another_node_pods_here_keep_addresses_that_are_now_routed_there"

    // MARK: Leases of others

    case leaseSkipped = "lease_skipped"
    case leaseNoLongerSkipped = "lease_no_longer_skipped"

    // MARK: Two nodes that take themselves for one

    case addressAnnouncedByAnother = "another_node_announces_this_node_s_address_its_lease_is_left_alone"
    case identityOfAnother = "another_node_has_this_node_s_identity"
    case takingAnotherIdentity = "this_node_s_identity_is_another_node_s_taking_another_one"
    case leaseOfAnotherIdentity =
        "the_lease_is_this_node_s_by_its_subnet_file_and_its_address_under_another_identity"
    case takingLeaseBack = "another_node_with_this_node_s_address_took_its_lease_taking_it_back"
    case subnetHeldByAnother =
        "the_subnet_of_the_last_run_is_held_by_another_node_with_this_node_s_address_taking_another"

    // MARK: Kubernetes' nodes

    case startingFromLastKnown = "starting_from_what_was_last_known"
    case lastKnownNotKept = "what_is_known_could_not_be_kept"
    case subnetAssigned = "subnet_assigned"
    case waitingForSubnet = "waiting_for_this_node_s_podcidr"
    case subnetChanged = "this_node_s_podcidr_changed"
    case nodeIsAbsent = "the_cluster_has_no_node_of_this_name"
    case nodeMadeAnew = "this_node_s_object_was_made_anew"
    case annotationsWritten = "node_annotations_written"
    case annotationsRestored = "node_annotations_restored"
    case annotationIgnored = "annotation_of_this_node_ignored"
    case networkAvailable = "node_s_network_is_available"
    case nodeSkipped = "node_skipped"
    case nodeNoLongerSkipped = "node_no_longer_skipped"
    case watchIsSilent = "watch_is_silent_reading_everything_anew"

    // MARK: The store

    case storeUnreachable = "store_unreachable_trying_again"
    case storeRefuses = "store_refuses_trying_again"
    case storeFailedRequest = "store_failed_a_request_trying_again"
    case storeAnswersAgain = "store_answers_again"
    case watchMissedChanges = "the_store_s_watch_missed_changes_that_reading_it_anew_found"
    case storeHistoryIsGone = "store_history_is_gone_reading_everything_anew"
    case storeIsOlder = "store_is_older_than_before_restored_or_emptied_reading_everything_anew"
    case storeIsAnother = "the_store_is_another_one_than_before"
    case storeLostLeases = "the_store_lost_leases_that_are_not_believed_gone_their_nodes_stay_peers"
    case noLeaseIsHeldAnyLonger = "no_lease_is_held_any_longer_that_the_store_lost"

    /// The name.
    public var description: String { rawValue }
}
